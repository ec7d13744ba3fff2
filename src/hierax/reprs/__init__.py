"""What objects look like at a prompt, in a debugger and in a notebook: short texts, and small HTML without scripts."""
