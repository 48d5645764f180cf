#!/bin/busybox sh
# /init of the box: a KVM host inside an emulated machine. It mounts the folder that the real
# host shares, lets the harness run the jobs it finds there, and powers off.

export PATH=/bin:/usr/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev 2>/dev/null
mkdir -p /tmp /share /dev/shm
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /dev/shm

while read -r module; do
    insmod "/modules/$module.ko" || echo "@@VMI box_insmod_failed=$module"
done < /modules/order

if ! mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=none share /share; then
    echo "@@VMI box_failed=the shared folder cannot be mounted"
elif [ ! -c /dev/kvm ]; then
    echo "@@VMI box_failed=the box has no /dev/kvm"
else
    xtask box-agent /share || echo "@@VMI box_failed=the harness failed"
    sync
    umount /share
fi
poweroff -f
