// Where the program's parts are in memory: wrapper.go lays them out. Changed there, too.
#define AT_SOCKET   0x400800
#define AT_TIMEOUT  0x400870
#define AT_SELF     0x400880
#define AT_MESSAGE  0x400890
#define AT_ORIGINAL 0x400900
#define AT_PLACE    0x400a00

#define SOCKADDR_SIZE 110
#define MESSAGE_SIZE  112
#define MAX_ANSWER    1024
#define BUFFER        4096
#define CODE_END      0x6b646c76

#define AF_UNIX     1
#define SOCKET_TYPE 0x80005 // SOCK_SEQPACKET|SOCK_CLOEXEC
#define SOL_SOCKET  1
#define SO_RCVTIMEO 20
#define SO_SNDTIMEO 21
#define MNT_DETACH  2
#define AT_FDCWD    -100
