"""The machine that a run has: devices, processor, allocator, measured peaks and the roofline."""
