/*
 * traffic echo ADDRESS PORT
 * traffic load ADDRESS PORT RATE SECONDS
 *
 * `echo` answers each datagram with the same bytes, and with the bit of DNS that says "response".
 * `load` sends DNS queries from one socket, RATE a second, and prints: sent, answered, answered from other addresses,
 * nanoseconds of processor time.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

enum { BATCH = 32, SIZE = 512 };

static struct mmsghdr messages[BATCH];
static struct iovec parts[BATCH];
static struct sockaddr_in peers[BATCH];
static unsigned char bytes[BATCH][SIZE];

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec * 1e-9;
}

static int receive(int fd, int flags)
{
	for (int i = 0; i < BATCH; i++) {
		parts[i] = (struct iovec){ bytes[i], SIZE };
		messages[i].msg_hdr = (struct msghdr){ .msg_iov = &parts[i], .msg_iovlen = 1, .msg_name = &peers[i],
			.msg_namelen = sizeof(peers[i]) };
	}
	return recvmmsg(fd, messages, BATCH, flags, NULL);
}

static void echo(int fd, struct sockaddr_in at)
{
	if (bind(fd, (struct sockaddr *)&at, sizeof(at)))
		err(1, "bind");
	for (;;) {
		int count = receive(fd, MSG_WAITFORONE);

		for (int i = 0; i < count; i++) {
			bytes[i][2] |= 0x80;
			parts[i].iov_len = messages[i].msg_len;
		}
		for (int sent = 0; sent < count;) {
			int done = sendmmsg(fd, messages + sent, count - sent, 0);

			sent += done > 0 ? done : 1; /* one that can't be sent is lost */
		}
	}
}

/* A query for the address of example.com. The number of the datagram is its identifier. */
static int query(unsigned char *to, unsigned long number)
{
	static const unsigned char rest[] = "\1\0\0\1\0\0\0\0\0\0\7example\3com\0\0\1\0\1";

	to[0] = number >> 8;
	to[1] = number;
	memcpy(to + 2, rest, sizeof(rest) - 1);
	return sizeof(rest) + 1;
}

static void load(int fd, struct sockaddr_in to, double rate, double seconds)
{
	unsigned char text[SIZE];
	unsigned long sent = 0, answered = 0, foreign = 0;
	double start = now(), elapsed;
	struct timespec used;

	do {
		int count;

		elapsed = now() - start;
		for (int i = 0; i < BATCH && elapsed < seconds && sent < elapsed * rate; i++) {
			int size = query(text, sent);

			if (sendto(fd, text, size, 0, (struct sockaddr *)&to, sizeof(to)) == size)
				sent++;
		}
		while ((count = receive(fd, MSG_DONTWAIT)) > 0)
			for (int i = 0; i < count; i++) {
				answered++;
				if (peers[i].sin_addr.s_addr != to.sin_addr.s_addr || peers[i].sin_port != to.sin_port)
					foreign++;
			}
		poll(&(struct pollfd){ .fd = fd, .events = POLLIN }, 1, 1);
	} while (elapsed < seconds + 0.2);
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
	printf("%lu %lu %lu %lu\n", sent, answered, foreign, used.tv_sec * 1000000000ul + used.tv_nsec);
}

int main(int argc, char **argv)
{
	struct sockaddr_in at = { .sin_family = AF_INET };
	int fd = socket(AF_INET, SOCK_DGRAM, 0), room = 16 << 20;

	if (argc < 4 || inet_pton(AF_INET, argv[2], &at.sin_addr) != 1)
		errx(2, "usage: traffic echo|load ADDRESS PORT [RATE SECONDS]");
	at.sin_port = htons(atoi(argv[3]));
	if (fd < 0)
		err(1, "socket");
	setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof(room));
	setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof(room));
	if (!strcmp(argv[1], "echo"))
		echo(fd, at);
	if (argc != 6)
		errx(2, "load needs RATE and SECONDS");
	load(fd, at, atof(argv[4]), atof(argv[5]));
	return 0;
}
