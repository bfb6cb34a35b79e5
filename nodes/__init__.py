"""The ComfyUI side of the pack; the modules that import the host are loaded when the host asks for the nodes."""
