#include "textflag.h"
#include "wrapper.h"

// System calls (include/uapi/asm-generic/unistd.h).
#define SYS_umount2    $39
#define SYS_read       $63
#define SYS_write      $64
#define SYS_newfstatat $79
#define SYS_exit_group $94
#define SYS_socket     $198
#define SYS_connect    $203
#define SYS_setsockopt $208
#define SYS_execve     $221

// See wrapper.go. The kernel enters here with argc, argv, 0, envp, 0 on the stack.
// R20 is argv, R21 envp, R23 the socket, R22 a buffer below the stack.
TEXT ·wrapperCode(SB), NOSPLIT|NOFRAME, $0-0
	MOVD 0(RSP), R19
	ADD  $8, RSP, R20
	ADD  R19<<3, R20, R21
	ADD  $8, R21
	SUB  $BUFFER, RSP, R22

	MOVD $AF_UNIX, R0
	MOVD $SOCKET_TYPE, R1
	MOVD $0, R2
	MOVD SYS_socket, R8
	SVC
	CMP  $0, R0
	BLT  original
	MOVD R0, R23

	MOVD R23, R0
	MOVD $SOL_SOCKET, R1
	MOVD $SO_RCVTIMEO, R2
	MOVD $AT_TIMEOUT, R3
	MOVD $16, R4
	MOVD SYS_setsockopt, R8
	SVC
	MOVD R23, R0
	MOVD $SOL_SOCKET, R1
	MOVD $SO_SNDTIMEO, R2
	MOVD $AT_TIMEOUT, R3
	MOVD $16, R4
	MOVD SYS_setsockopt, R8
	SVC

	MOVD R23, R0
	MOVD $AT_SOCKET, R1
	MOVD $SOCKADDR_SIZE, R2
	MOVD SYS_connect, R8
	SVC
	CMP  $0, R0
	BLT  original

again:
	MOVD R23, R0
	MOVD R22, R1
	MOVD $MAX_ANSWER, R2
	MOVD SYS_read, R8
	SVC
	CMP  $1, R0
	BLT  original
	BEQ  again

	MOVD R22, R0
	MOVD R20, R1
	MOVD R21, R2
	MOVD SYS_execve, R8
	SVC

original:
	MOVD $AT_ORIGINAL, R0
	MOVD R20, R1
	MOVD R21, R2
	MOVD SYS_execve, R8
	SVC

	MOVD $AT_PLACE, R0
	MOVD $MNT_DETACH, R1
	MOVD SYS_umount2, R8
	SVC
	MOVD $AT_FDCWD, R0
	MOVD $AT_PLACE, R1
	MOVD R22, R2
	MOVD $0, R3
	MOVD SYS_newfstatat, R8
	SVC
	CMP  $0, R0
	BLT  fail
	MOVD $AT_FDCWD, R0
	MOVD $AT_SELF, R1
	ADD  $256, R22, R2
	MOVD $0, R3
	MOVD SYS_newfstatat, R8
	SVC
	CMP  $0, R0
	BLT  fail
	MOVD 0(R22), R0
	MOVD 256(R22), R1
	CMP  R1, R0
	BNE  place
	MOVD 8(R22), R0
	MOVD 264(R22), R1
	CMP  R1, R0
	BEQ  fail

place:
	MOVD $AT_PLACE, R0
	MOVD R20, R1
	MOVD R21, R2
	MOVD SYS_execve, R8
	SVC

fail:
	MOVD $2, R0
	MOVD $AT_MESSAGE, R1
	MOVD $MESSAGE_SIZE, R2
	MOVD SYS_write, R8
	SVC
	MOVD $127, R0
	MOVD SYS_exit_group, R8
	SVC
	WORD $CODE_END
	WORD $CODE_END

// func wrapperAddress() unsafe.Pointer
TEXT ·wrapperAddress(SB), NOSPLIT, $0-8
	MOVD $·wrapperCode(SB), R0
	MOVD R0, ret+0(FP)
	RET
