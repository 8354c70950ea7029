"""What tests share: fakes, recorded answers, a provider on this machine."""
