#!/bin/busybox sh
# /init of the test guest. It reports what it finds as lines `@@VMI key=value` on the console
# and judges nothing: the host knows what is right.
#
# Kernel command line: vmi.mode=check (the default), bench, profile or reads; vmi.region=BYTES and
# vmi.write_base=BYTES describe the disk; vmi.reads=DEPTH,WINDOWS,MILLISECONDS how it is read.

say() { echo "@@VMI $*"; }

say "userspace=1"
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev 2>/dev/null
# From here on only what kills a kernel goes to the console between our lines.
dmesg -n 2

MODE=check
REGION=2097152
WRITE_BASE=33554432
READS=32,3,1000
for word in $(cat /proc/cmdline); do
    case $word in
        vmi.mode=*) MODE=${word#*=} ;;
        vmi.region=*) REGION=${word#*=} ;;
        vmi.write_base=*) WRITE_BASE=${word#*=} ;;
        vmi.reads=*) READS=${word#*=} ;;
    esac
done

while read -r module; do
    insmod "/modules/$module.ko" || say "insmod_failed=$module"
done < /modules/order

waited=0
while [ ! -b /dev/vda ] && [ $waited -lt 100 ]; do
    sleep 0.1
    waited=$((waited + 1))
done

# finish: power off once the console has sent all of our lines; the kernel's own last words
# would go between them.
finish() {
    say "done=1"
    stty -echo
    poweroff -f
}

hash_of() { sha256sum | cut -d' ' -f1; }

# read_at CPU OFFSET LENGTH BLOCK: the disk's bytes, read by that processor past the page cache.
read_at() {
    taskset -c "$1" dd if=/dev/vda bs="$4" skip=$(($2 / $4)) count=$(($3 / $4)) \
        iflag=direct status=none
}

if [ "$MODE" = reads ]; then
    domain=none
    for type in /sys/block/vda/device/../iommu_group/type; do
        [ -r "$type" ] && domain=$(cat "$type")
    done
    say "domain=$domain"
    say "bench_hash=$(read_at 0 0 "$REGION" 65536 | hash_of)"
    # shellcheck disable=SC2046
    vm-iommu-reader /dev/vda $(echo "$READS" | sed 's/,/ /g')
    finish
fi

if [ "$MODE" = bench ] || [ "$MODE" = profile ]; then
    say "clock=$(cut -d' ' -f1 /proc/uptime)"
    say "bench_hash=$(read_at 0 0 "$REGION" 65536 | hash_of)"
    [ "$MODE" = profile ] || finish
    # The longest silences of the kernel's log: where it waited or worked.
    dmesg | sed 's/^<[0-9]*>//' | awk '/^\[/ {
            line = $0
            sub(/^\[ */, "", line)
            now = line + 0
            sub(/^[0-9.]*\] */, "", line)
            if (NR > 1) print now - before "\t" last
            before = now
            last = line
        }' | sort -rn | head -n 8 | while read -r gap; do say "gap=$gap"; done
    finish
fi

say "kernel=$(uname -r)"
say "cpus=$(nproc)"
say "uptime=$(cut -d' ' -f1 /proc/uptime)"
dmesg | grep -E 'DMAR|AMD-Vi|iommu|x2apic|Unknown kernel command line' |
    while read -r line; do say "dmesg=$line"; done

for device in /sys/bus/pci/devices/*; do
    group=none
    type=none
    if [ -L "$device/iommu_group" ]; then
        group=$(basename "$(readlink "$device/iommu_group")")
        type=$(cat "/sys/kernel/iommu_groups/$group/type")
    fi
    say "pci=$(basename "$device") $(cat "$device/vendor") $(cat "$device/device")" \
        "$(cat "$device/class") group=$group type=$type"
done

interrupts() {
    awk -v when="$1" 'NR == 1 { cpus = NF; next }
        $1 ~ /^[0-9]+:$/ {
            total = 0
            for (i = 2; i <= cpus + 1; i++) total += $i
            text = ""
            for (i = cpus + 2; i <= NF; i++) text = text " " $i
            sub(":", "", $1)
            print "@@VMI irq_" when "=" $1 " " total text
        }' /proc/interrupts
}

if [ -b /dev/vda ]; then
    say "disk_bytes=$(($(cat /sys/block/vda/size) * 512))"
    say "disk_device=$(basename "$(readlink -f /sys/block/vda/device/..)")"
    interrupts before
    for queue in /sys/block/vda/mq/*; do
        number=$(basename "$queue")
        cpu=$(sed 's/,.*//; s/-.*//; s/ //g' "$queue/cpu_list")
        [ -n "$cpu" ] || continue
        from=$((number * REGION))
        to=$((WRITE_BASE + number * REGION))
        say "queue=$number cpu=$cpu"
        say "queue_read=$number $(read_at "$cpu" $from "$REGION" 65536 | hash_of)"
        # One sector a request, which no page boundary aligns.
        say "queue_small=$number $(read_at "$cpu" $from 65536 512 | hash_of)"
        taskset -c "$cpu" dd if=/dev/vda of=/dev/vda bs=65536 \
            skip=$((from / 65536)) seek=$((to / 65536)) count=$((REGION / 65536)) \
            iflag=direct oflag=direct conv=notrunc,fsync status=none ||
            say "queue_write_failed=$number"
        say "queue_back=$number $(read_at "$cpu" $to "$REGION" 65536 | hash_of)"
    done
    sync
    interrupts after
else
    say "disk_bytes=none"
fi

faults() {
    dmesg | grep -E 'DMAR: \[(DMA|INTR)|DRHD: handling fault|[Ff]ault (addr|reason)|Event logged'
}
faults | while read -r line; do say "fault=$line"; done
dmesg | grep -E 'WARNING:|BUG:|Oops|nobody cared|blocked for more|Call Trace' |
    while read -r line; do say "trouble=$line"; done
# Warnings and errors of the unit's driver, such as of a wait that does not complete.
dmesg -r | grep -E '^<[0-4]>' | grep -E 'DMAR|AMD-Vi' | sed 's/^<[0-9]*>//' |
    while read -r line; do say "trouble=$line"; done

# The edu device has no driver here, so it sits in a domain that maps nothing: a DMA from it
# must be refused and reported.
for device in /sys/bus/pci/devices/*; do
    [ "$(cat "$device/vendor") $(cat "$device/device")" = "0x1234 0x11e8" ] || continue
    name=$(basename "$device")
    base=$(($(head -n 1 "$device/resource" | cut -d' ' -f1)))
    echo 1 > "$device/enable"
    poke() { devmem $((base + $1)) 32 "$2"; }
    say "edu_device=$name"
    say "edu_id=$(devmem $base 32)"
    poke 8 6
    sleep 0.3
    say "edu_factorial=$(devmem $((base + 8)) 32)"
    # Memory space and bus master enable.
    printf '\006\000' | dd of="$device/config" bs=1 seek=4 conv=notrunc status=none
    before=$(faults | wc -l)
    # Source 0x123000 in memory, destination the device's buffer, 16 bytes, start.
    poke 128 0x123000; poke 132 0
    poke 136 0x40000; poke 140 0
    poke 144 16; poke 148 0
    poke 152 1
    sleep 0.5
    say "edu_faults=$(($(faults | wc -l) - before))"
    faults | tail -n +$((before + 1)) | while read -r line; do say "edu_fault=$line"; done
done

finish
