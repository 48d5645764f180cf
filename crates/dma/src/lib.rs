//! What stands between a device and guest memory: handles, sessions, caches and drains.
