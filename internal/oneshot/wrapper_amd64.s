#include "textflag.h"
#include "wrapper.h"

// System calls (arch/x86/entry/syscalls/syscall_64.tbl).
#define SYS_read       $0
#define SYS_write      $1
#define SYS_stat       $4
#define SYS_socket     $41
#define SYS_connect    $42
#define SYS_setsockopt $54
#define SYS_execve     $59
#define SYS_umount2    $166
#define SYS_exit_group $231

// See wrapper.go. The kernel enters here with argc, argv, 0, envp, 0 on the stack.
// R12 is argv, R13 envp, R15 the socket, R14 a buffer below the stack.
TEXT ·wrapperCode(SB), NOSPLIT|NOFRAME, $0-0
	MOVQ 0(SP), AX
	LEAQ 8(SP), R12
	LEAQ 16(SP)(AX*8), R13
	LEAQ -BUFFER(SP), R14

	MOVQ $AF_UNIX, DI
	MOVQ $SOCKET_TYPE, SI
	XORL DX, DX
	MOVQ SYS_socket, AX
	SYSCALL
	TESTQ AX, AX
	JLT   original
	MOVQ  AX, R15

	MOVQ R15, DI
	MOVQ $SOL_SOCKET, SI
	MOVQ $SO_RCVTIMEO, DX
	MOVQ $AT_TIMEOUT, R10
	MOVQ $16, R8
	MOVQ SYS_setsockopt, AX
	SYSCALL
	MOVQ R15, DI
	MOVQ $SOL_SOCKET, SI
	MOVQ $SO_SNDTIMEO, DX
	MOVQ $AT_TIMEOUT, R10
	MOVQ $16, R8
	MOVQ SYS_setsockopt, AX
	SYSCALL

	MOVQ R15, DI
	MOVQ $AT_SOCKET, SI
	MOVQ $SOCKADDR_SIZE, DX
	MOVQ SYS_connect, AX
	SYSCALL
	TESTQ AX, AX
	JLT   original

again:
	MOVQ R15, DI
	MOVQ R14, SI
	MOVQ $MAX_ANSWER, DX
	MOVQ SYS_read, AX
	SYSCALL
	CMPQ AX, $1
	JLT  original
	JEQ  again

	MOVQ R14, DI
	MOVQ R12, SI
	MOVQ R13, DX
	MOVQ SYS_execve, AX
	SYSCALL

original:
	MOVQ $AT_ORIGINAL, DI
	MOVQ R12, SI
	MOVQ R13, DX
	MOVQ SYS_execve, AX
	SYSCALL

	MOVQ $AT_PLACE, DI
	MOVQ $MNT_DETACH, SI
	MOVQ SYS_umount2, AX
	SYSCALL
	MOVQ $AT_PLACE, DI
	MOVQ R14, SI
	MOVQ SYS_stat, AX
	SYSCALL
	TESTQ AX, AX
	JLT   fail
	MOVQ $AT_SELF, DI
	LEAQ 256(R14), SI
	MOVQ SYS_stat, AX
	SYSCALL
	TESTQ AX, AX
	JLT   fail
	MOVQ 0(R14), AX
	CMPQ AX, 256(R14)
	JNE  place
	MOVQ 8(R14), AX
	CMPQ AX, 264(R14)
	JEQ  fail

place:
	MOVQ $AT_PLACE, DI
	MOVQ R12, SI
	MOVQ R13, DX
	MOVQ SYS_execve, AX
	SYSCALL

fail:
	MOVQ $2, DI
	MOVQ $AT_MESSAGE, SI
	MOVQ $MESSAGE_SIZE, DX
	MOVQ SYS_write, AX
	SYSCALL
	MOVQ $127, DI
	MOVQ SYS_exit_group, AX
	SYSCALL
	LONG $CODE_END
	LONG $CODE_END

// func wrapperAddress() unsafe.Pointer
TEXT ·wrapperAddress(SB), NOSPLIT, $0-8
	LEAQ ·wrapperCode(SB), AX
	MOVQ AX, ret+0(FP)
	RET
