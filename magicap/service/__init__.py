"""A captioner over HTTP: the application, the queue that batches its requests, its limits, and its page."""
