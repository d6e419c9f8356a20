"""Pages and models over HTTP; they need the extra `web`."""
