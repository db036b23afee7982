/*
 * send ROUNDS PACKETS BATCH BYTES WARMING < PLAN
 *
 * Sends UDP datagrams in turn through several small networks, and measures the time that a datagram takes there. In
 * user-mode Linux with one CPU, the whole way of a datagram happens within the system call of the sender.
 *
 * PLAN has a paragraph for each case:
 *
 *     case
 *     client NETNS ADDRESS PORT FLOWS SOURCE
 *     server NETNS ADDRESS PORT
 *
 * The client sends to ADDRESS and PORT, in FLOWS flows with ports from 20000 on. One flow is a connected socket; several
 * flows are one raw socket, which writes the headers, with the source address SOURCE, so that a system call sends many
 * flows. With servers, the case measures replies: the client sends to the service until each server has had the time
 * to learn its clients, then only the servers send.
 *
 * First, WARMING datagrams in each case are not timed: they make the entries of conntrack. A round sends PACKETS
 * datagrams in each case, in an order that is shuffled for each round. BATCH datagrams before that are not timed. Prints for each slice: round, number of the case, nanoseconds per datagram.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <fcntl.h>
#include <netinet/ip.h>
#include <netinet/udp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MAX_CASES = 64, MAX_BATCH = 1024, MAX_BYTES = 1400, FIRST_PORT = 20000, MAX_FAILED = 100000 };

struct headers {
	struct iphdr ip;
	struct udphdr udp;
} __attribute__((packed));

/* One socket, and the destinations or headers that it sends to in turn. */
struct sender {
	int fd;
	int count;                 /* of peers or headers; 0: the socket is connected */
	int next;
	struct sockaddr_in *peers; /* of an unconnected UDP socket */
	struct headers *headers;   /* of a raw socket */
	struct sockaddr_in to;     /* of a raw socket */
};

struct one_case {
	struct sender client;
	struct sender *servers;
	int server_count;
	int next_server;
};

static struct one_case cases[MAX_CASES];
static int case_count, batch, bytes;
static unsigned long failed;
static char payload[MAX_BYTES];
static struct mmsghdr messages[MAX_BATCH];
static struct iovec parts[MAX_BATCH][2];

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec * 1e-9;
}

static void *allocate(size_t count, size_t size)
{
	void *memory = calloc(count, size);

	if (!memory)
		err(1, "calloc");
	return memory;
}

static struct sockaddr_in address(const char *text, int port)
{
	struct sockaddr_in found = { .sin_family = AF_INET, .sin_port = htons(port) };

	if (inet_pton(AF_INET, text, &found.sin_addr) != 1)
		errx(2, "%s: not an IPv4 address", text);
	return found;
}

static int open_socket(const char *netns, int type, int protocol)
{
	char path[256];
	int fd, room = 64 << 20;

	snprintf(path, sizeof(path), "/run/netns/%s", netns);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || setns(fd, CLONE_NEWNET))
		err(1, "%s", path);
	close(fd);
	fd = socket(AF_INET, type, protocol);
	if (fd < 0)
		err(1, "socket");
	setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof(room));
	setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof(room));
	return fd;
}

static unsigned int sum(const void *data, int size)
{
	const unsigned char *byte = data;
	unsigned int total = 0;

	for (int i = 0; i < size; i++)
		total += i % 2 ? byte[i] : byte[i] << 8;
	return total;
}

static unsigned short checksum(unsigned int total)
{
	while (total >> 16)
		total = (total & 0xffff) + (total >> 16);
	return htons(~total & 0xffff);
}

static void open_client(struct sender *client, const char *netns, struct sockaddr_in to, int flows, const char *source)
{
	struct sockaddr_in from = address(source, FIRST_PORT);

	client->to = to;
	if (flows == 1) {
		client->fd = open_socket(netns, SOCK_DGRAM, 0);
		if (bind(client->fd, (struct sockaddr *)&from, sizeof(from)) ||
		    connect(client->fd, (struct sockaddr *)&to, sizeof(to)))
			err(1, "client in %s", netns);
		return;
	}
	client->fd = open_socket(netns, SOCK_RAW, IPPROTO_RAW);
	client->count = flows;
	client->headers = allocate(flows, sizeof(struct headers));
	for (int i = 0; i < flows; i++) {
		struct headers *one = &client->headers[i];
		int length = sizeof(one->udp) + bytes;

		one->ip = (struct iphdr){ .version = 4, .ihl = 5, .ttl = 64, .protocol = IPPROTO_UDP,
			.frag_off = htons(IP_DF), .saddr = from.sin_addr.s_addr, .daddr = to.sin_addr.s_addr };
		one->udp = (struct udphdr){ .source = htons(FIRST_PORT + i), .dest = to.sin_port, .len = htons(length) };
		one->udp.check = checksum(sum(&one->ip.saddr, 8) + IPPROTO_UDP + length +
			sum(&one->udp, sizeof(one->udp)) + sum(payload, bytes));
	}
}

static void prepare(struct sender *sender, int count)
{
	for (int i = 0; i < count; i++) {
		struct msghdr *message = &messages[i].msg_hdr;

		*message = (struct msghdr){ .msg_iov = &parts[i][1], .msg_iovlen = 1 };
		if (!sender->count)
			continue;
		if (sender->headers) {
			parts[i][0] = (struct iovec){ &sender->headers[sender->next], sizeof(struct headers) };
			message->msg_iov = parts[i];
			message->msg_iovlen = 2;
			message->msg_name = &sender->to;
		} else {
			message->msg_name = &sender->peers[sender->next];
		}
		message->msg_namelen = sizeof(struct sockaddr_in);
		sender->next = (sender->next + 1) % sender->count;
	}
}

static void send_from(struct sender *sender, int count)
{
	prepare(sender, count);
	for (int start = 0; start < count;) {
		int done = sendmmsg(sender->fd, messages + start, count - start, 0);

		if (done >= 0)
			start += done;
		else if (++failed > MAX_FAILED)
			err(1, "sendmmsg");
	}
}

/* Batches go to the servers in turn. Those without clients (the balancer has not chosen them) send nothing. */
static struct sender *next_sender(struct one_case *one)
{
	if (!one->server_count)
		return &one->client;
	do
		one->next_server = (one->next_server + 1) % one->server_count;
	while (!one->servers[one->next_server].count);
	return &one->servers[one->next_server];
}

static void send_slice(struct one_case *one, int packets)
{
	for (; packets > 0; packets -= batch)
		send_from(next_sender(one), packets < batch ? packets : batch);
}

static int learn(struct sender *server)
{
	struct sockaddr_in from;
	socklen_t size = sizeof(from);
	char buffer[MAX_BYTES];
	int before = server->count;

	while (recvfrom(server->fd, buffer, sizeof(buffer), MSG_DONTWAIT, (struct sockaddr *)&from, &size) >= 0) {
		server->peers = realloc(server->peers, (server->count + 1) * sizeof(from));
		if (!server->peers)
			err(1, "realloc");
		server->peers[server->count++] = from;
	}
	return server->count - before;
}

/* Each flow sends as often as there are servers, so all servers that the balancer chooses learn of it. */
static void introduce(struct one_case *one)
{
	int flows = one->client.count ? one->client.count : 1, learnt = 0;

	for (int i = 0; i < flows * one->server_count; i++) {
		send_from(&one->client, 1);
		if (i % 64 == 63 || i == flows * one->server_count - 1)
			for (int k = 0; k < one->server_count; k++)
				learnt += learn(&one->servers[k]);
	}
	if (learnt != flows * one->server_count)
		errx(1, "case %td: servers received %d of %d requests", one - cases, learnt, flows * one->server_count);
}

static void read_plan(void)
{
	char word[16], netns[64], text[64], source[64];
	struct one_case *one = NULL;
	int port, flows;

	while (scanf("%15s", word) == 1) {
		if (!strcmp(word, "case")) {
			if (case_count == MAX_CASES)
				errx(2, "at most %d cases", MAX_CASES);
			one = &cases[case_count++];
		} else if (one && !strcmp(word, "client") &&
			   scanf("%63s %63s %d %d %63s", netns, text, &port, &flows, source) == 5) {
			open_client(&one->client, netns, address(text, port), flows, source);
		} else if (one && !strcmp(word, "server") && scanf("%63s %63s %d", netns, text, &port) == 3) {
			struct sockaddr_in at = address(text, port);
			struct sender *server;

			one->servers = realloc(one->servers, (one->server_count + 1) * sizeof(*one->servers));
			if (!one->servers)
				err(1, "realloc");
			server = &one->servers[one->server_count++];
			*server = (struct sender){ .fd = open_socket(netns, SOCK_DGRAM, 0) };
			if (bind(server->fd, (struct sockaddr *)&at, sizeof(at)))
				err(1, "server %s in %s", text, netns);
		} else {
			errx(2, "the plan has a line that is neither case, client nor server: %s", word);
		}
	}
}

int main(int argc, char **argv)
{
	int rounds, packets, warming, order[MAX_CASES];
	unsigned int seed = time(NULL);
	double *seconds;

	if (argc != 6)
		errx(2, "usage: send ROUNDS PACKETS BATCH BYTES WARMING < PLAN");
	rounds = atoi(argv[1]);
	packets = atoi(argv[2]);
	batch = atoi(argv[3]);
	bytes = atoi(argv[4]);
	warming = atoi(argv[5]);
	if (rounds < 1 || packets < 1 || batch < 1 || batch > MAX_BATCH || bytes < 1 || bytes > MAX_BYTES)
		errx(2, "rounds and packets from 1, batch 1..%d, bytes 1..%d", MAX_BATCH, MAX_BYTES);
	/* A data record of NetFlow 9: pools with templates read the version and the number of the set. */
	memset(payload, 'x', sizeof(payload));
	payload[0] = 0;
	payload[1] = 9;
	for (int i = 0; i < MAX_BATCH; i++)
		parts[i][1] = (struct iovec){ payload, bytes };
	read_plan();
	for (int i = 0; i < case_count; i++) {
		order[i] = i;
		if (cases[i].server_count)
			introduce(&cases[i]);
		send_slice(&cases[i], warming);
	}
	seconds = allocate((size_t)rounds * case_count, sizeof(*seconds));

	for (int round = 0; round < rounds; round++) {
		for (int i = case_count - 1; i > 0; i--) {
			int other = rand_r(&seed) % (i + 1), swap = order[i];

			order[i] = order[other];
			order[other] = swap;
		}
		for (int k = 0; k < case_count; k++) {
			int i = order[k];
			double start;

			send_slice(&cases[i], batch);
			start = now();
			send_slice(&cases[i], packets);
			seconds[(size_t)round * case_count + i] = now() - start;
		}
	}
	for (int round = 0; round < rounds; round++)
		for (int i = 0; i < case_count; i++)
			printf("%d %d %.1f\n", round, i, seconds[(size_t)round * case_count + i] * 1e9 / packets);
	if (failed)
		errx(1, "%lu sends failed and were repeated", failed);
	return 0;
}
