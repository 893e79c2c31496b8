//! The composition root: owns the cores, wires the drivers.
