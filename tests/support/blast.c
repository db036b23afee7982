/*
 * blast: one UDP socket as fast as it goes, and sinks that can prove what became of every datagram.
 *
 *   blast send --to ADDR --port N --count N [--from ADDR] [--from-port N] [--size N] [--batch N] [--rate N]
 *              [--window N] [--shared FD --sinks N] [--replies] [--connect] [--timeout-ms N] [--cpu N]
 *   blast sink --bind ADDR --port N [--shared FD --index N] [--log FD --capacity N] [--echo] [--stamps] [--cpu N]
 *
 * Payload: sequence number and time of sending (CLOCK_MONOTONIC, ns), 64 bits each in host order, then a pattern that
 * follows from the sequence number, so that every byte can be checked.
 *
 * Flow control: queues on the way (1000 packets in the kernel's backlog, a receive buffer) overflow when the sender is
 * faster than a sink, and such a loss says nothing about the balancer. So the sender stays at most `window` datagrams
 * ahead of what has arrived: it counts its replies, or else what the sinks add up in memory that it shares with them.
 * When nothing arrives for `timeout-ms` the outstanding ones are written off and it goes on, so a real loss stops nothing;
 * what arrives after all, as on a machine that is busy with something else, is taken back from "written_off".
 *
 * Both print "ready" when they are, and at their end one line of JSON, where "buffer_drops" are losses in their own socket
 * buffer, and "sources" counts what they got by its source. `sink` ends when its standard input does, having taken what
 * was still in its buffer. SIGTERM ends both too.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#ifndef SO_MEMINFO
#define SO_MEMINFO 55
#endif
enum { MEMINFO_DROPS = 8, MEMINFO_FIELDS = 9 }; /* SK_MEMINFO_DROPS of linux/sock_diag.h */

enum { MAX_BATCH = 128, MAX_SIZE = 65507, MAX_SINKS = 64, MAX_SOURCES = 16, RECV_BATCH = 128 };
enum { SLOW_START_COUNT = 256, SLOW_START_WINDOW = 16 }; /* while neighbours are resolved: their queue is short */
enum { BUFFER = 64 << 20, CONTROL = 64, WAIT_NS = 20 * 1000 };
/* A sink that has emptied its buffer lets it fill for a while: woken up for every datagram, it would cost the sender,
 * on whose processor the balancer works, most of its speed. A window of 512 lasts for some milliseconds. */
enum { LULL_NS = 200 * 1000 };

struct header { uint64_t sequence, sent_ns; };
struct record { uint64_t sequence, sent_ns, received_ns; };
struct counter { _Atomic uint64_t count; char pad[64 - sizeof(uint64_t)]; }; /* a cache line each */
union address { struct sockaddr any; struct sockaddr_in v4; struct sockaddr_in6 v6; };

static struct {
	const char *to, *from, *bind;
	int port, from_port, size, batch, window, shared, sinks, index, log, timeout_ms, cpu;
	uint64_t count, capacity, rate;
	bool replies, connect, echo, stamps;
} opt = { .from_port = 0, .size = 64, .batch = 32, .window = 512, .shared = -1, .log = -1, .timeout_ms = 3000, .cpu = -1 };

static volatile sig_atomic_t stopped;

static void on_signal(int number) { (void)number; stopped = 1; }

static void die(const char *what) { fprintf(stderr, "blast: %s: %s\n", what, strerror(errno)); exit(3); }

static uint64_t clock_ns(clockid_t id)
{
	struct timespec t;
	clock_gettime(id, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t now(void) { return clock_ns(CLOCK_MONOTONIC); }

static void nap(uint64_t ns)
{
	struct timespec t = { .tv_sec = (time_t)(ns / 1000000000u), .tv_nsec = (long)(ns % 1000000000u) };
	nanosleep(&t, NULL);
}

/* ---- payload ---- */

static uint64_t pattern(uint64_t sequence, size_t word) { return sequence * 0x9E3779B97F4A7C15u + word; }

static void fill(char *payload, uint64_t sequence, uint64_t sent_ns)
{
	struct header header = { sequence, sent_ns };
	memcpy(payload, &header, sizeof header);
	for (size_t at = sizeof header, word = 0; at < (size_t)opt.size; at += 8, word++) {
		uint64_t value = pattern(sequence, word);
		size_t left = (size_t)opt.size - at;
		memcpy(payload + at, &value, left < 8 ? left : 8);
	}
}

static bool whole(const char *payload, size_t size, const struct header *header)
{
	for (size_t at = sizeof *header, word = 0; at < size; at += 8, word++) {
		uint64_t value = pattern(header->sequence, word);
		size_t left = size - at;
		if (memcmp(payload + at, &value, left < 8 ? left : 8) != 0)
			return false;
	}
	return true;
}

/* ---- sockets ---- */

static socklen_t parse(union address *out, const char *text, int port)
{
	memset(out, 0, sizeof *out);
	if (inet_pton(AF_INET, text, &out->v4.sin_addr) == 1) {
		out->v4.sin_family = AF_INET;
		out->v4.sin_port = htons((uint16_t)port);
		return sizeof out->v4;
	}
	if (inet_pton(AF_INET6, text, &out->v6.sin6_addr) == 1) {
		out->v6.sin6_family = AF_INET6;
		out->v6.sin6_port = htons((uint16_t)port);
		return sizeof out->v6;
	}
	errno = EINVAL;
	die(text);
	return 0;
}

static int udp_socket(int family)
{
	int fd = socket(family, SOCK_DGRAM | SOCK_CLOEXEC, 0), size = BUFFER;
	if (fd < 0)
		die("socket");
	if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size) != 0) /* root outside only */
		setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
	return fd;
}

static uint32_t buffer_drops(int fd)
{
	uint32_t info[MEMINFO_FIELDS] = { 0 };
	socklen_t size = sizeof info;
	if (getsockopt(fd, SOL_SOCKET, SO_MEMINFO, info, &size) != 0)
		die("SO_MEMINFO");
	return info[MEMINFO_DROPS];
}

static struct counter *shared_counters(void)
{
	if (opt.shared < 0)
		return NULL;
	void *memory = mmap(NULL, MAX_SINKS * sizeof(struct counter), PROT_READ | PROT_WRITE, MAP_SHARED, opt.shared, 0);
	if (memory == MAP_FAILED)
		die("mmap of the shared counters");
	return memory;
}

/* One set of buffers for recvmmsg, which the sink also answers from. */
struct inbox {
	struct mmsghdr message[RECV_BATCH];
	struct iovec io[RECV_BATCH];
	union address name[RECV_BATCH];
	char control[RECV_BATCH][CONTROL] __attribute__((aligned(8)));
	char *payload;
	int size;
};

static struct inbox *new_inbox(int size)
{
	struct inbox *in = calloc(1, sizeof *in);
	if (!in || !(in->payload = malloc((size_t)RECV_BATCH * (size_t)size)))
		die("memory");
	in->size = size;
	return in;
}

static int take(struct inbox *in, int fd, bool control)
{
	for (int i = 0; i < RECV_BATCH; i++) {
		in->io[i] = (struct iovec){ in->payload + (size_t)i * (size_t)in->size, (size_t)in->size };
		in->message[i].msg_hdr = (struct msghdr){
			.msg_name = &in->name[i], .msg_namelen = sizeof in->name[i], .msg_iov = &in->io[i], .msg_iovlen = 1,
			.msg_control = control ? in->control[i] : NULL, .msg_controllen = control ? CONTROL : 0,
		};
	}
	return recvmmsg(fd, in->message, RECV_BATCH, MSG_DONTWAIT, NULL);
}

/* ---- sources of what arrives ---- */

static struct {
	union address address;
	uint64_t count;
} sources[MAX_SOURCES];
static int source_count;

static bool same(const union address *a, const union address *b)
{
	if (a->any.sa_family != b->any.sa_family)
		return false;
	if (a->any.sa_family == AF_INET)
		return a->v4.sin_port == b->v4.sin_port && a->v4.sin_addr.s_addr == b->v4.sin_addr.s_addr;
	return a->v6.sin6_port == b->v6.sin6_port && !memcmp(&a->v6.sin6_addr, &b->v6.sin6_addr, 16);
}

static void count_source(const union address *from)
{
	for (int i = 0; i < source_count; i++)
		if (same(from, &sources[i].address)) {
			sources[i].count++;
			return;
		}
	if (source_count < MAX_SOURCES) {
		sources[source_count].address = *from;
		sources[source_count++].count = 1;
	}
}

static void print_sources(void)
{
	char text[INET6_ADDRSTRLEN];
	printf("\"sources\": {");
	for (int i = 0; i < source_count; i++) {
		const union address *a = &sources[i].address;
		const char *comma = i ? ", " : "";
		if (a->any.sa_family == AF_INET)
			printf("%s\"%s:%d\": %" PRIu64, comma, inet_ntop(AF_INET, &a->v4.sin_addr, text, sizeof text),
			       ntohs(a->v4.sin_port), sources[i].count);
		else
			printf("%s\"[%s]:%d\": %" PRIu64, comma, inet_ntop(AF_INET6, &a->v6.sin6_addr, text, sizeof text),
			       ntohs(a->v6.sin6_port), sources[i].count);
	}
	printf("}");
}

/* ---- send ---- */

static struct {
	uint64_t before; /* what had arrived when we began */
	uint64_t sent, unique, duplicates, damaged, strange, errors, retries, stalls, written_off;
	int last_error;
	uint8_t *seen;
} tx;

static void read_replies(struct inbox *in, int fd)
{
	int got;
	while ((got = take(in, fd, false)) != 0) {
		if (got < 0) {
			if (errno == EAGAIN || errno == EINTR)
				return;
			tx.errors++; /* an ICMP error, on a connected socket */
			tx.last_error = errno;
			continue;
		}
		for (int i = 0; i < got; i++) {
			struct header header;
			unsigned size = in->message[i].msg_len;
			count_source(&in->name[i]);
			if (size < sizeof header) {
				tx.strange++;
				continue;
			}
			memcpy(&header, in->io[i].iov_base, sizeof header);
			if (header.sequence >= tx.sent) {
				tx.strange++;
				continue;
			}
			if (size != (unsigned)opt.size || !whole(in->io[i].iov_base, size, &header))
				tx.damaged++;
			uint8_t bit = (uint8_t)(1u << (header.sequence & 7));
			if (tx.seen[header.sequence >> 3] & bit) {
				tx.duplicates++;
			} else {
				tx.seen[header.sequence >> 3] |= bit;
				tx.unique++;
			}
		}
		if (got < RECV_BATCH)
			return;
	}
}

static uint64_t arrived(const struct counter *counters)
{
	if (opt.replies)
		return tx.unique;
	uint64_t sum = 0 - tx.before;
	for (int i = 0; i < opt.sinks; i++)
		sum += atomic_load_explicit(&counters[i].count, memory_order_acquire);
	return sum;
}

/* Wait until no more than `most` datagrams are under way. */
static void await_window(struct inbox *in, int fd, const struct counter *counters, int64_t most)
{
	uint64_t before = UINT64_MAX, since = 0;
	while (!stopped) {
		if (opt.replies)
			read_replies(in, fd);
		uint64_t here = arrived(counters);
		int64_t open = (int64_t)(tx.sent - tx.written_off - here);
		if (open < 0) { /* written off, and came after all */
			tx.written_off -= (uint64_t)-open;
			open = 0;
		}
		if (open <= most)
			return;
		if (here != before) {
			before = here;
			since = now();
		} else if (now() - since > (uint64_t)opt.timeout_ms * 1000000u) {
			tx.stalls++;
			tx.written_off += (uint64_t)open;
			return;
		}
		nap(WAIT_NS);
	}
}

/* Return how many have left: all of them, unless a signal came. */
static int send_batch(int fd, struct mmsghdr *message, int batch)
{
	int done = 0;
	while (done < batch && !stopped) {
		int n = sendmmsg(fd, message + done, (unsigned)(batch - done), 0);
		if (n > 0) {
			done += n;
		} else if (errno == EAGAIN || errno == ENOBUFS || errno == EINTR) {
			tx.retries++;
			nap(WAIT_NS);
		} else {
			/* An ICMP error that came before: reading it has cleared it, and the datagram has not left. */
			tx.errors++;
			tx.last_error = errno;
			if (tx.errors > 1000000)
				die("sendmmsg");
		}
	}
	return done;
}

static int run_send(void)
{
	union address to, from;
	socklen_t length = parse(&to, opt.to, opt.port);
	int fd = udp_socket(to.any.sa_family);
	socklen_t from_length = parse(&from, opt.from ? opt.from : to.any.sa_family == AF_INET ? "0.0.0.0" : "::", opt.from_port);
	if (bind(fd, &from.any, from_length) != 0)
		die("bind");
	if (opt.connect && connect(fd, &to.any, length) != 0)
		die("connect");
	struct counter *counters = shared_counters();
	struct inbox *in = new_inbox(opt.size + 1);
	struct mmsghdr message[MAX_BATCH] = { 0 };
	struct iovec io[MAX_BATCH];
	char *payload = malloc((size_t)opt.batch * (size_t)opt.size);
	tx.seen = calloc(opt.count / 8 + 1, 1);
	if (!payload || !tx.seen)
		die("memory");
	for (int i = 0; i < opt.batch; i++) {
		io[i] = (struct iovec){ payload + (size_t)i * (size_t)opt.size, (size_t)opt.size };
		message[i].msg_hdr = (struct msghdr){ .msg_iov = &io[i], .msg_iovlen = 1,
			.msg_name = opt.connect ? NULL : &to.any, .msg_namelen = opt.connect ? 0 : length };
	}
	bool paced = counters || opt.replies;
	tx.before = counters ? arrived(counters) : 0;
	printf("ready\n");
	fflush(stdout);
	uint64_t start = now();
	while (tx.sent < opt.count && !stopped) {
		int window = tx.sent < SLOW_START_COUNT && opt.window > SLOW_START_WINDOW ? SLOW_START_WINDOW : opt.window;
		int batch = opt.batch < window ? opt.batch : window;
		if ((uint64_t)batch > opt.count - tx.sent)
			batch = (int)(opt.count - tx.sent);
		if (paced)
			await_window(in, fd, counters, window - batch);
		if (opt.rate) {
			uint64_t due = start + (uint64_t)((double)tx.sent * 1e9 / (double)opt.rate), at = now();
			if (due > at)
				nap(due - at);
		}
		uint64_t at = now();
		for (int i = 0; i < batch; i++)
			fill(io[i].iov_base, tx.sent + (uint64_t)i, at);
		tx.sent += (uint64_t)batch; /* before they leave: a reply may be quicker than sendmmsg returns */
		tx.sent -= (uint64_t)(batch - send_batch(fd, message, batch));
	}
	stopped = 0; /* what is under way still arrives */
	double seconds = (double)(now() - start) / 1e9; /* of sending: the wait for lost datagrams is not part of the rate */
	if (paced)
		await_window(in, fd, counters, 0);
	if (opt.replies)
		read_replies(in, fd);
	printf("{\"sent\": %" PRIu64 ", \"seconds\": %.6f, \"replies\": %" PRIu64 ", \"duplicates\": %" PRIu64
	       ", \"damaged\": %" PRIu64 ", \"strange\": %" PRIu64 ", \"errors\": %" PRIu64 ", \"last_error\": %d"
	       ", \"retries\": %" PRIu64 ", \"stalls\": %" PRIu64 ", \"written_off\": %" PRIu64 ", \"buffer_drops\": %u"
	       ", \"start_ns\": %" PRIu64 ", ",
	       tx.sent, seconds, tx.unique, tx.duplicates, tx.damaged, tx.strange, tx.errors, tx.last_error, tx.retries,
	       tx.stalls, tx.written_off, buffer_drops(fd), start);
	print_sources();
	printf("}\n");
	return 0;
}

/* ---- sink ---- */

static uint64_t stamp_of(const struct msghdr *message, uint64_t fallback, uint64_t offset)
{
	for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c; c = CMSG_NXTHDR((struct msghdr *)message, c))
		if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SO_TIMESTAMPNS) {
			struct timespec t;
			memcpy(&t, CMSG_DATA(c), sizeof t);
			return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec - offset;
		}
	return fallback;
}

static void echo(struct inbox *in, int fd, int got, uint64_t *echoed, uint64_t *failed)
{
	for (int i = 0; i < got; i++) {
		in->io[i].iov_len = in->message[i].msg_len;
		in->message[i].msg_hdr.msg_control = NULL;
		in->message[i].msg_hdr.msg_controllen = 0;
	}
	for (int done = 0; done < got;) {
		int n = sendmmsg(fd, in->message + done, (unsigned)(got - done), 0);
		if (n > 0) {
			done += n;
			*echoed += (uint64_t)n;
		} else if (errno == EAGAIN || errno == ENOBUFS || errno == EINTR) {
			nap(WAIT_NS);
		} else {
			++*failed;
			done++;
		}
	}
}

static int run_sink(void)
{
	union address at;
	socklen_t length = parse(&at, opt.bind, opt.port);
	int fd = udp_socket(at.any.sa_family), on = 1;
	if (at.any.sa_family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on);
	if (opt.stamps && setsockopt(fd, SOL_SOCKET, SO_TIMESTAMPNS, &on, sizeof on) != 0)
		die("SO_TIMESTAMPNS");
	if (bind(fd, &at.any, length) != 0)
		die("bind");
	struct counter *counters = shared_counters();
	struct record *log = NULL;
	if (opt.log >= 0) {
		log = mmap(NULL, opt.capacity * sizeof *log, PROT_READ | PROT_WRITE, MAP_SHARED, opt.log, 0);
		if (log == MAP_FAILED)
			die("mmap of the log");
	}
	struct inbox *in = new_inbox(opt.size + 1);
	uint64_t received = 0, logged = 0, strange = 0, damaged = 0, echoed = 0, failed = 0, batches = 0;
	uint64_t offset = clock_ns(CLOCK_REALTIME) - now(); /* kernel stamps are CLOCK_REALTIME */
	struct pollfd wait[2] = { { .fd = fd, .events = POLLIN }, { .fd = STDIN_FILENO, .events = POLLIN } };
	printf("ready\n");
	fflush(stdout);
	for (bool ending = false;;) {
		int got = take(in, fd, opt.stamps);
		if (got < 0 && errno != EAGAIN && errno != EINTR)
			die("recvmmsg");
		if (got <= 0) {
			if (ending)
				break;
			if (poll(wait, 2, -1) < 0 && errno != EINTR)
				die("poll");
			ending = wait[1].revents || stopped; /* then read what is still in the buffer */
			if (!ending)
				nap(LULL_NS);
			continue;
		}
		uint64_t moment = now();
		batches++;
		for (int i = 0; i < got; i++) {
			struct header header;
			unsigned size = in->message[i].msg_len;
			count_source(&in->name[i]);
			if (size < sizeof header) {
				strange++;
				continue;
			}
			memcpy(&header, in->io[i].iov_base, sizeof header);
			if (size != (unsigned)opt.size || !whole(in->io[i].iov_base, size, &header))
				damaged++;
			if (log && logged < opt.capacity) {
				uint64_t stamp = opt.stamps ? stamp_of(&in->message[i].msg_hdr, moment, offset) : moment;
				log[logged++] = (struct record){ header.sequence, header.sent_ns, stamp };
			}
		}
		received += (uint64_t)got;
		if (opt.echo)
			echo(in, fd, got, &echoed, &failed);
		if (counters)
			atomic_store_explicit(&counters[opt.index].count, received, memory_order_release);
	}
	printf("{\"received\": %" PRIu64 ", \"logged\": %" PRIu64 ", \"strange\": %" PRIu64 ", \"damaged\": %" PRIu64
	       ", \"echoed\": %" PRIu64 ", \"echo_failed\": %" PRIu64 ", \"batches\": %" PRIu64 ", \"buffer_drops\": %u, ",
	       received, logged, strange, damaged, echoed, failed, batches, buffer_drops(fd));
	print_sources();
	printf("}\n");
	return 0;
}

/* ---- command line ---- */

static uint64_t number(const char *text, uint64_t least, uint64_t most)
{
	char *end;
	errno = 0;
	uint64_t value = strtoull(text, &end, 10);
	if (errno || *end || value < least || value > most) {
		fprintf(stderr, "blast: %s is not a number from %" PRIu64 " to %" PRIu64 "\n", text, least, most);
		exit(2);
	}
	return value;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "to", 1, 0, 't' }, { "from", 1, 0, 'f' }, { "bind", 1, 0, 'b' }, { "port", 1, 0, 'p' },
		{ "from-port", 1, 0, 'P' }, { "size", 1, 0, 's' }, { "batch", 1, 0, 'B' }, { "window", 1, 0, 'w' },
		{ "shared", 1, 0, 'S' }, { "sinks", 1, 0, 'n' }, { "index", 1, 0, 'i' }, { "log", 1, 0, 'l' },
		{ "timeout-ms", 1, 0, 'T' }, { "cpu", 1, 0, 'c' }, { "count", 1, 0, 'N' }, { "capacity", 1, 0, 'C' },
		{ "rate", 1, 0, 'r' }, { "replies", 0, 0, 'R' }, { "connect", 0, 0, 'k' }, { "echo", 0, 0, 'e' },
		{ "stamps", 0, 0, 'm' }, { 0 },
	};
	int c;
	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (c) {
		case 't': opt.to = optarg; break;
		case 'f': opt.from = optarg; break;
		case 'b': opt.bind = optarg; break;
		case 'p': opt.port = (int)number(optarg, 1, 65535); break;
		case 'P': opt.from_port = (int)number(optarg, 0, 65535); break;
		case 's': opt.size = (int)number(optarg, sizeof(struct header), MAX_SIZE); break;
		case 'B': opt.batch = (int)number(optarg, 1, MAX_BATCH); break;
		case 'w': opt.window = (int)number(optarg, 1, 1000000); break;
		case 'S': opt.shared = (int)number(optarg, 0, 1 << 20); break;
		case 'n': opt.sinks = (int)number(optarg, 1, MAX_SINKS); break;
		case 'i': opt.index = (int)number(optarg, 0, MAX_SINKS - 1); break;
		case 'l': opt.log = (int)number(optarg, 0, 1 << 20); break;
		case 'T': opt.timeout_ms = (int)number(optarg, 1, 60000); break;
		case 'c': opt.cpu = (int)number(optarg, 0, CPU_SETSIZE - 1); break;
		case 'N': opt.count = number(optarg, 1, UINT64_C(1) << 36); break;
		case 'C': opt.capacity = number(optarg, 1, UINT64_C(1) << 32); break;
		case 'r': opt.rate = number(optarg, 0, 100000000); break;
		case 'R': opt.replies = true; break;
		case 'k': opt.connect = true; break;
		case 'e': opt.echo = true; break;
		case 'm': opt.stamps = true; break;
		default: return 2;
		}
	}
	struct sigaction action = { .sa_handler = on_signal }; /* without SA_RESTART: a wait ends */
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGINT, &action, NULL);
	if (opt.cpu >= 0) {
		cpu_set_t set;
		CPU_ZERO(&set);
		CPU_SET(opt.cpu, &set);
		if (sched_setaffinity(0, sizeof set, &set) != 0)
			die("sched_setaffinity");
	}
	const char *mode = optind < argc ? argv[optind] : "";
	if (!strcmp(mode, "send") && opt.to && opt.port && opt.count)
		return run_send();
	if (!strcmp(mode, "sink") && opt.bind && opt.port && (opt.log < 0 || opt.capacity))
		return run_sink();
	fprintf(stderr, "usage: blast send --to ADDR --port N --count N ... | blast sink --bind ADDR --port N ...\n");
	return 2;
}
