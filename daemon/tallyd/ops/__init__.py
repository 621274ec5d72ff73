"""What keeps the daemon operable: the service manager, metrics, logs, webhooks."""
