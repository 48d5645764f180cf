# Programs for protected mode without paging, copied to 1 MiB. Only plain integer instructions:
# a KVM that interprets the guest's kernel runs them too.

.pushsection .rodata.payloads, "a"
.code32
.set BASE, 0x100000
.set IDT, 0x200000
.set STACK, 0x210000

# Says a word and ends with 0x2a.
.globl payload_hello
.globl payload_hello_end
payload_hello:
    movl $(hello_text - payload_hello + BASE), %esi
    movw $0x3f8, %dx
1:  movb (%esi), %al
    testb %al, %al
    jz 2f
    outb %al, %dx
    incl %esi
    jmp 1b
2:  movw $0xf4, %dx
    movl $0x2a, %eax
    outl %eax, %dx
3:  hlt
    jmp 3b
hello_text:
    .asciz "hello from the guest\n"
payload_hello_end:

# Takes the serial port's interrupt through the I/O APIC: once as an edge, then as a level; each
# handler says a letter and ends the interrupt. Then checks that no remote IRR is left. In 64-bit
# mode, whose IRET the interpreter knows.
.code64
.globl payload_ioapic
.globl payload_ioapic_end
payload_ioapic:
    movl $STACK, %esp
    movl $0x40, %ebx
    movl $(edge_handler - payload_ioapic + BASE), %eax
    call set_gate
    movl $0x41, %ebx
    movl $(level_handler - payload_ioapic + BASE), %eax
    call set_gate
    call load_idt
    # The local APIC on, spurious vector 0xff.
    movl $0xfee000f0, %edi
    movl $0x1ff, (%rdi)
    xorl %ebp, %ebp
    sti
    # Pin 4: vector 0x40, edge, destination 0.
    movl $0x40, %ecx
    call set_pin
    call ask_interrupt
1:  testl $1, %ebp
    jz 1b
    # Pin 4: vector 0x41, level.
    movl $0x8041, %ecx
    call set_pin
    call ask_interrupt
2:  testl $2, %ebp
    jz 2b
    # The end of the interrupt reached the I/O APIC with the exit that told of it.
    movl $0xfec00000, %edi
    movl $0x18, (%rdi)
    movl 0x10(%rdi), %eax
    shrl $14, %eax
    andl $1, %eax
    movw $0xf4, %dx
    outl %eax, %dx
3:  hlt
    jmp 3b

load_idt:
    subq $16, %rsp
    movw $0xfff, (%rsp)
    movq $IDT, 2(%rsp)
    lidt (%rsp)
    addq $16, %rsp
    ret

set_gate:
    shll $4, %ebx
    addl $IDT, %ebx
    movw %ax, (%rbx)
    movl %cs, %ecx
    movw %cx, 2(%rbx)
    movw $0x8e00, 4(%rbx)
    shrl $16, %eax
    movw %ax, 6(%rbx)
    movq $0, 8(%rbx)
    ret

set_pin:
    movl $0xfec00000, %edi
    movl $0x19, (%rdi)
    movl $0, 0x10(%rdi)
    movl $0x18, (%rdi)
    movl %ecx, 0x10(%rdi)
    ret

# The serial port interrupts when its transmitter is empty, which it is.
ask_interrupt:
    movw $0x3f9, %dx
    movb $2, %al
    outb %al, %dx
    ret

edge_handler:
    orl $1, %ebp
    movb $'E', %cl
    jmp finish
level_handler:
    orl $2, %ebp
    movb $'L', %cl
finish:
    # No further interrupt for the byte that is said; reading the identification ends this one.
    movw $0x3fa, %dx
    inb %dx, %al
    movw $0x3f9, %dx
    xorl %eax, %eax
    outb %al, %dx
    movw $0x3f8, %dx
    movb %cl, %al
    outb %al, %dx
    movl $0xfee000b0, %edi
    movl $0, (%rdi)
    iretq
payload_ioapic_end:

# Waits for an interrupt that somebody else sends: says that it is ready, then what it took.
.globl payload_msi
.globl payload_msi_end
payload_msi:
    movl $STACK, %esp
    movl $0x40, %ebx
    movl $(msi_handler - payload_msi + BASE), %eax
    call 4f
    subq $16, %rsp
    movw $0xfff, (%rsp)
    movq $IDT, 2(%rsp)
    lidt (%rsp)
    movl $0xfee000f0, %edi
    movl $0x1ff, (%rdi)
    xorl %ebp, %ebp
    sti
    movw $0x3f8, %dx
    movb $'R', %al
    outb %al, %dx
1:  testl $1, %ebp
    jz 1b
    movw $0xf4, %dx
    xorl %eax, %eax
    outl %eax, %dx
2:  hlt
    jmp 2b
4:  shll $4, %ebx
    addl $IDT, %ebx
    movw %ax, (%rbx)
    movl %cs, %ecx
    movw %cx, 2(%rbx)
    movw $0x8e00, 4(%rbx)
    shrl $16, %eax
    movw %ax, 6(%rbx)
    movq $0, 8(%rbx)
    ret
msi_handler:
    orl $1, %ebp
    movw $0x3f8, %dx
    movb $'M', %al
    outb %al, %dx
    movl $0xfee000b0, %edi
    movl $0, (%rdi)
    iretq
payload_msi_end:

.code32
# Starts the second processor, which ends the machine with its APIC ID from CPUID leaf 0xb.
.globl payload_smp
.globl payload_smp_end
payload_smp:
    # The second processor begins in real mode at 0x8000.
    movl $(trampoline - payload_smp + BASE), %esi
    movl $0x8000, %edi
    movl $(payload_smp_end - trampoline), %ecx
    rep movsb
    movl $0xfee000f0, %edi
    movl $0x1ff, (%edi)
    movl $0xfee00310, %edi
    movl $0x01000000, (%edi)
    movl $0xfee00300, %edi
    movl $0x00004500, (%edi)
    movl $0x00004608, (%edi)
1:  hlt
    jmp 1b
.code16
trampoline:
    movl $0xb, %eax
    xorl %ecx, %ecx
    cpuid
    movl %edx, %eax
    movw $0xf4, %dx
    outl %eax, %dx
2:  hlt
    jmp 2b
payload_smp_end:

# What goes wrong: nothing handles the page fault, nor the fault of that.
.code64
.globl payload_triple_fault
.globl payload_triple_fault_end
payload_triple_fault:
    movl $STACK, %esp
    subq $16, %rsp
    movw $0, (%rsp)
    movq $0, 2(%rsp)
    lidt (%rsp)
    # No page table maps this.
    movabsq $0x8000000000, %rax
    movl (%rax), %eax
1:  hlt
    jmp 1b
payload_triple_fault_end:

.code32
# Powers off, after reading from a port and an address that nobody answers.
.globl payload_power_off
.globl payload_power_off_end
payload_power_off:
    movw $0x2f0, %dx
    inl %dx, %eax
    cmpl $-1, %eax
    jne 1f
    movl $0xfeb00000, %edi
    movl (%edi), %eax
    cmpl $-1, %eax
    jne 1f
    # The number of processors, from the firmware configuration.
    movw $0x510, %dx
    movw $5, %ax
    outw %ax, %dx
    incw %dx
    inb %dx, %al
    addb $'0', %al
    movw $0x3f8, %dx
    outb %al, %dx
    movw $0x600, %dx
    movb $0x34, %al
    outb %al, %dx
    jmp 2f
1:  movw $0x602, %dx
    movb $1, %al
    outb %al, %dx
2:  hlt
    jmp 2b
payload_power_off_end:

.code64
.popsection
