"""The HTTP edge: one router per noun. Handlers parse, call the core, return; all else happens elsewhere."""
