"""An engine on Ray: a pool of workers asks, one limiter holds for all of them, and answer logs outlive both."""
