//! A PCI Express fabric: config space, capabilities, bridges, BAR routing and isolation groups.
