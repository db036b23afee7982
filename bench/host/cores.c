/*
 * cores ROUNDS PACKETS BATCH BYTES < PLAN
 * cores line OPERATIONS
 *
 * Sends UDP datagrams from processors 0 and 1 at the same time, and measures what a datagram takes on each of them. With
 * veth interfaces, a processor does all work for its datagrams within its system calls.
 *
 * PLAN has a line for each case, with the client of processor 0 and the client of processor 1:
 *
 *     NETNS ADDRESS PORT NETNS ADDRESS PORT
 *
 * NETNS is the open descriptor of a namespace, or -1 if the processor sends nothing in this case. A round sends PACKETS
 * datagrams from each processor in each case, in an order that is shuffled for each round. The processor that ends first
 * goes on, untimed, until the other one has ended, so that both send during all of the time that counts.
 * The threads have real-time priority, and sleep between slices so that other processes can work.
 *
 * Prints for each slice: "slice", round, case, processor, and the nanoseconds per datagram by the clock and by the
 * processor time of the thread. Then for each case: "sent", case, datagrams.
 *
 * `line` measures an atomic addition, and prints the nanoseconds of one: by one processor, by both in different cache
 * lines, by both in the same cache line.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

enum { PROCESSORS = 2, MAX_CASES = 64, MAX_BATCH = 256, MAX_BYTES = 1400, PORT = 20000, LINE = 64, MAX_FAILED = 100000, PAUSE = 3000000 };

struct sample {
	double wall, cpu;
};

struct processor {
	pthread_t thread;
	int number;
	struct mmsghdr messages[MAX_BATCH];
	int fd[MAX_CASES];
	unsigned long sent[MAX_CASES];
	struct sample *samples; /* [round * case_count + case] */
};

static struct processor processors[PROCESSORS];
static int case_count, rounds, packets, batch, bytes;
static int *order; /* [round * case_count + place] */
static struct iovec part;
static pthread_barrier_t meeting;
static _Alignas(LINE) atomic_int started;
static _Alignas(LINE) atomic_int ended;
static _Alignas(LINE) atomic_long words[2 * LINE / sizeof(atomic_long)];

static double clock_of(clockid_t id)
{
	struct timespec t;

	clock_gettime(id, &t);
	return t.tv_sec * 1e9 + t.tv_nsec;
}

static void pin(int processor)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(processor, &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		err(1, "processor %d", processor);
}

/* Without permission, slices that another process interrupts are found by their times. */
static void keep_others_out(void)
{
	sched_setscheduler(0, SCHED_FIFO, &(struct sched_param){ .sched_priority = 1 });
}

/* Both wait asleep, then awake: they start within less than a microsecond. */
static void start_together(int count)
{
	atomic_fetch_add(&started, 1);
	while (atomic_load(&started) < count)
		__builtin_ia32_pause();
}

static int open_socket(int netns, const char *address, int port, int from)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(port) };
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons(from) };
	int fd, room = 16 << 20;

	if (inet_pton(AF_INET, address, &to.sin_addr) != 1)
		errx(2, "%s: not an IPv4 address", address);
	if (setns(netns, CLONE_NEWNET))
		err(1, "setns");
	fd = socket(AF_INET, SOCK_DGRAM, 0);
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof(room)))
		err(1, "socket");
	if (bind(fd, (struct sockaddr *)&at, sizeof(at)) || connect(fd, (struct sockaddr *)&to, sizeof(to)))
		err(1, "%s", address);
	return fd;
}

static void send_some(struct processor *of, int number, int count)
{
	int failed = 0;

	of->sent[number] += count;
	for (int left = count; left > 0;) {
		int done = sendmmsg(of->fd[number], of->messages, left < batch ? left : batch, 0);

		if (done > 0)
			left -= done;
		else if (++failed > MAX_FAILED)
			err(1, "sendmmsg");
	}
}

static void *work(void *argument)
{
	static const struct timespec pause = { .tv_nsec = PAUSE };
	struct processor *of = argument;

	pin(of->number);
	keep_others_out();
	for (int i = 0; i < batch; i++)
		of->messages[i].msg_hdr = (struct msghdr){ .msg_iov = &part, .msg_iovlen = 1 };
	for (int place = 0; place < rounds * case_count; place++) {
		int number = order[place], senders = 0;
		double wall, cpu;

		for (int i = 0; i < PROCESSORS; i++)
			senders += processors[i].fd[number] >= 0;
		pthread_barrier_wait(&meeting);
		if (of->number == 0) {
			atomic_store(&started, 0);
			atomic_store(&ended, 0);
		}
		pthread_barrier_wait(&meeting);
		nanosleep(&pause, NULL);
		if (of->fd[number] < 0)
			continue;
		start_together(senders);
		send_some(of, number, 2 * batch);
		wall = clock_of(CLOCK_MONOTONIC);
		cpu = clock_of(CLOCK_THREAD_CPUTIME_ID);
		send_some(of, number, packets);
		cpu = clock_of(CLOCK_THREAD_CPUTIME_ID) - cpu;
		wall = clock_of(CLOCK_MONOTONIC) - wall;
		of->samples[place / case_count * case_count + number] = (struct sample){ wall / packets, cpu / packets };
		atomic_fetch_add(&ended, 1);
		for (int more = 0; more < 4 * packets && atomic_load(&ended) < senders; more += batch)
			send_some(of, number, batch);
	}
	return NULL;
}

static void read_plan(void)
{
	char address[PROCESSORS][64];
	int netns[PROCESSORS], port[PROCESSORS];

	while (scanf("%d %63s %d %d %63s %d", &netns[0], address[0], &port[0], &netns[1], address[1], &port[1]) == 6) {
		if (case_count == MAX_CASES)
			errx(2, "at most %d cases", MAX_CASES);
		for (int i = 0; i < PROCESSORS; i++)
			/* Each socket has a port of its own, because cases share namespaces. */
			processors[i].fd[case_count] = netns[i] < 0 ? -1 :
				open_socket(netns[i], address[i], port[i], PORT + PROCESSORS * case_count + i);
		case_count++;
	}
}

static void shuffle(void)
{
	unsigned int seed = time(NULL);

	for (int round = 0; round < rounds; round++) {
		int *of = order + round * case_count;

		for (int i = 0; i < case_count; i++)
			of[i] = i;
		for (int i = case_count - 1; i > 0; i--) {
			int other = rand_r(&seed) % (i + 1), swap = of[i];

			of[i] = of[other];
			of[other] = swap;
		}
	}
}

static void run_threads(void *(*function)(void *), int count)
{
	for (int i = 0; i < count; i++) {
		processors[i].number = i;
		if (pthread_create(&processors[i].thread, NULL, function, &processors[i]))
			errx(1, "pthread_create");
	}
	for (int i = 0; i < count; i++)
		pthread_join(processors[i].thread, NULL);
}

static int adders, stride;
static long operations;

static void *add(void *argument)
{
	struct processor *of = argument;
	double start;

	pin(of->number);
	keep_others_out();
	start_together(adders);
	start = clock_of(CLOCK_THREAD_CPUTIME_ID);
	for (long i = 0; i < operations; i++)
		atomic_fetch_add(&words[of->number * stride], 1);
	of->samples->cpu = (clock_of(CLOCK_THREAD_CPUTIME_ID) - start) / operations;
	return NULL;
}

static void measure_line(void)
{
	static const struct { int adders, stride; } ways[] = { { 1, 0 }, { 2, LINE / sizeof(atomic_long) }, { 2, 0 } };
	struct sample sample[PROCESSORS];

	for (int i = 0; i < PROCESSORS; i++)
		processors[i].samples = &sample[i];
	for (size_t i = 0; i < sizeof(ways) / sizeof(ways[0]); i++) {
		adders = ways[i].adders;
		stride = ways[i].stride;
		atomic_store(&started, 0);
		run_threads(add, adders);
		printf("%.2f\n", sample[0].cpu);
	}
}

int main(int argc, char **argv)
{
	char *payload;

	if (argc == 3 && !strcmp(argv[1], "line")) {
		operations = atol(argv[2]);
		measure_line();
		return 0;
	}
	if (argc != 5)
		errx(2, "usage: cores ROUNDS PACKETS BATCH BYTES < PLAN, or cores line OPERATIONS");
	rounds = atoi(argv[1]);
	packets = atoi(argv[2]);
	batch = atoi(argv[3]);
	bytes = atoi(argv[4]);
	if (rounds < 1 || packets < 1 || batch < 1 || batch > MAX_BATCH || bytes < 1 || bytes > MAX_BYTES)
		errx(2, "rounds and packets from 1, batch 1..%d, bytes 1..%d", MAX_BATCH, MAX_BYTES);
	payload = calloc(1, bytes);
	part = (struct iovec){ payload, bytes };
	read_plan();
	order = calloc((size_t)rounds * case_count, sizeof(*order));
	for (int i = 0; i < PROCESSORS; i++)
		processors[i].samples = calloc((size_t)rounds * case_count, sizeof(struct sample));
	if (!payload || !order || !processors[0].samples || !processors[1].samples)
		err(1, "calloc");
	shuffle();
	pthread_barrier_init(&meeting, NULL, PROCESSORS);
	run_threads(work, PROCESSORS);
	for (int place = 0; place < rounds * case_count; place++)
		for (int i = 0; i < PROCESSORS; i++)
			if (processors[i].fd[place % case_count] >= 0)
				printf("slice %d %d %d %.1f %.1f\n", place / case_count, place % case_count, i,
				       processors[i].samples[place].wall, processors[i].samples[place].cpu);
	for (int number = 0; number < case_count; number++)
		printf("sent %d %lu\n", number, processors[0].sent[number] + processors[1].sent[number]);
	return 0;
}
