"""What a process needs: an event loop, access to the hub, litellm's set-up, redaction, lists that spill to disk."""
