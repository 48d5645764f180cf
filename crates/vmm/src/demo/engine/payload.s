# The demo's guest program: performs a list of operations.
#
# 64-bit code for ring 0 that runs wherever it is copied to. Plain integer instructions only:
# some KVMs interpret the guest's kernel and refuse the rest. The host fills in the header of the
# copy before the guest starts.
#
# rbx operation, r12 its index, r13 where results go, rbp status page.

    .pushsection .rodata.vm_iommu_demo, "a", @progbits
    .balign 16
    .globl vm_iommu_demo_payload
vm_iommu_demo_payload:
    jmp     .Lentry
    .balign 8
    # Header, at offset 8.
.Lscript:
    .quad   0
.Lstatus:
    .quad   0
.Lresults:
    .quad   0
.Lstack:
    .quad   0
.Lidtr:
    .word   0                           # limit
    .quad   0                           # base
    .balign 16

.Lentry:
    mov     rsp, qword ptr [rip + .Lstack]
    lidt    [rip + .Lidtr]
    mov     rbx, qword ptr [rip + .Lscript]
    mov     rbp, qword ptr [rip + .Lstatus]
    mov     r13, qword ptr [rip + .Lresults]
    xor     r12d, r12d
    mov     qword ptr [rbp + {STATE}], {RUNNING}

.Lnext:
    mov     qword ptr [rbp + {INDEX}], r12
    mov     eax, dword ptr [rbx]        # operation
    mov     ecx, dword ptr [rbx + 4]    # width in bytes
    mov     rsi, qword ptr [rbx + 8]    # address
    mov     rdx, qword ptr [rbx + 16]   # value
    mov     r8, qword ptr [rbx + 24]    # mask
    mov     r9, qword ptr [rbx + 32]    # bound
    cmp     eax, {STORE}
    je      .Lstore
    cmp     eax, {WAIT}
    je      .Lwait
    cmp     eax, {COMPARE}
    je      .Lcompare
    cmp     eax, {SLEEP}
    je      .Lsleep
    cmp     eax, {FINISH}
    je      .Lfinish
    jmp     .Lfailed

.Ladvance:
    add     rbx, {OPERATION_SIZE}
    inc     r12
    jmp     .Lnext

.Lstore:
    cmp     ecx, 8
    je      .Lstore64
    cmp     ecx, 4
    je      .Lstore32
    cmp     ecx, 2
    je      .Lstore16
    mov     byte ptr [rsi], dl
    jmp     .Ladvance
.Lstore16:
    mov     word ptr [rsi], dx
    jmp     .Ladvance
.Lstore32:
    mov     dword ptr [rsi], edx
    jmp     .Ladvance
.Lstore64:
    mov     qword ptr [rsi], rdx
    jmp     .Ladvance

# Loads until the masked value is the one awaited, at most `bound` times.
.Lwait:
    cmp     ecx, 8
    je      .Lload64
    cmp     ecx, 4
    je      .Lload32
    cmp     ecx, 2
    je      .Lload16
    movzx   eax, byte ptr [rsi]
    jmp     .Lloaded
.Lload16:
    movzx   eax, word ptr [rsi]
    jmp     .Lloaded
.Lload32:
    mov     eax, dword ptr [rsi]
    jmp     .Lloaded
.Lload64:
    mov     rax, qword ptr [rsi]
.Lloaded:
    mov     r11, rax
    and     r11, r8
    cmp     r11, rdx
    je      .Lwaited
    dec     r9
    jz      .Lwait_failed
    pause
    jmp     .Lwait
.Lwaited:
    mov     qword ptr [r13 + r12 * 8], rax
    jmp     .Ladvance
.Lwait_failed:
    mov     qword ptr [rbp + {LAST_VALUE}], rax
    jmp     .Lfailed

# Compares `bound` 64-bit words at the address with those at `value`.
.Lcompare:
    test    r9, r9
    jz      .Ladvance
    mov     rax, qword ptr [rsi]
    cmp     rax, qword ptr [rdx]
    jne     .Lwait_failed
    add     rsi, 8
    add     rdx, 8
    dec     r9
    jmp     .Lcompare

# Sleeps until the 64-bit counter at the address is at least `value`. Interrupts are enabled only
# here, so none is lost between the look and the sleep.
.Lsleep:
    cli
    cmp     qword ptr [rsi], rdx
    jae     .Ladvance
    sti
    hlt
    jmp     .Lsleep

.Lfinish:
    mov     qword ptr [rbp + {STATE}], {FINISHED}
    jmp     .Lexit
.Lfailed:
    mov     qword ptr [rbp + {STATE}], {FAILED}
.Lexit:
    mov     eax, dword ptr [rbp + {STATE}]
    mov     dx, {EXIT_PORT}
    out     dx, al
.Lstop:
    cli
    hlt
    jmp     .Lstop

# What every vector comes to: below, the vector; then, for some exceptions, an error code; then
# rip.
.Ltrap:
    push    rax
    push    rcx
    mov     rax, qword ptr [rsp + 16]
    mov     rcx, qword ptr [rip + .Lstatus]
    cmp     eax, 32
    jb      .Lexception
    inc     qword ptr [rcx + rax * 8 + {COUNTERS}]
    mov     eax, {LAPIC_EOI}
    mov     dword ptr [rax], 0          # end of interrupt
    pop     rcx
    pop     rax
    add     rsp, 8
    iretq
.Lexception:
    mov     qword ptr [rcx + {VECTOR}], rax
    mov     rax, qword ptr [rsp + 24]
    mov     qword ptr [rcx + {FRAME}], rax
    mov     rax, qword ptr [rsp + 32]
    mov     qword ptr [rcx + {FRAME} + 8], rax
    mov     rax, cr2
    mov     qword ptr [rcx + {FAULT_ADDRESS}], rax
    mov     qword ptr [rcx + {STATE}], {EXCEPTION}
    mov     rbp, rcx
    jmp     .Lexit

# One stub for each vector, 16 bytes apart.
    .balign 16
    .globl vm_iommu_demo_stubs
vm_iommu_demo_stubs:
    .set    vm_iommu_demo_vector, 0
    .rept   256
    push    vm_iommu_demo_vector
    jmp     .Ltrap
    .balign 16
    .set    vm_iommu_demo_vector, vm_iommu_demo_vector + 1
    .endr
    .globl vm_iommu_demo_end
vm_iommu_demo_end:
    .popsection
