"""The machine of a run: devices, processor, allocator, measured peaks and the roofline."""
