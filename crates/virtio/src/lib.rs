//! The virtio-pci transport over virtio-queue.
