"""Graph in, figure or string out. Views return; they never show, save or change a default."""
