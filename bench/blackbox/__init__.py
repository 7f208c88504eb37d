"""Any text-to-image pipeline of diffusers', described without torch, loaded, and timed from outside."""
