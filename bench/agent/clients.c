/*
 * A load on the agent's socket: clients in one epoll loop, each with one request open.
 *
 *     clients SOCKET CLIENTS PAIRS < FRAMES > LATENCIES
 *
 * A client connects, sends a request, reads the answer and closes the connection, as the launcher does:
 * its ADD, then its DEL, PAIRS times. FRAMES are the requests as they are sent, each behind its length (4
 * bytes, network byte order): ADD and DEL of the first client, of the second, and so on. LATENCIES are 8
 * bytes each, in nanoseconds from before the connection to the end of the answer. The exit status is 1 when
 * an answer is an error, or none.
 */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define HEADER 16 /* magic, exit status, length of the output, length of the messages */
#define LARGEST 65536

struct frame {
	uint32_t size;
	char *bytes;
};

struct client {
	struct frame frames[2];
	unsigned left;
	int connection;
	uint64_t began;
	size_t got;
	char answer[LARGEST];
};

static struct sockaddr_un address = {.sun_family = AF_UNIX};
static int events;

static uint64_t now(void)
{
	struct timespec at;

	clock_gettime(CLOCK_MONOTONIC, &at);
	return (uint64_t)at.tv_sec * 1000000000 + (uint64_t)at.tv_nsec;
}

static uint32_t number(const char *bytes)
{
	uint32_t raw;

	memcpy(&raw, bytes, sizeof raw);
	return ntohl(raw);
}

static void read_frame(struct frame *frame)
{
	char size[4];

	if (fread(size, sizeof size, 1, stdin) != 1)
		errx(1, "the frames end too early");
	frame->size = number(size);
	frame->bytes = malloc(frame->size);
	if (!frame->bytes || fread(frame->bytes, frame->size, 1, stdin) != 1)
		errx(1, "the frames end too early");
}

static void ask(struct client *client)
{
	const struct frame *frame = &client->frames[client->left % 2];
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = client};

	client->got = 0;
	client->began = now();
	client->connection = socket(AF_UNIX, SOCK_STREAM, 0);
	if (connect(client->connection, (struct sockaddr *)&address, sizeof address))
		err(1, "%s", address.sun_path);
	if (send(client->connection, frame->bytes, frame->size, MSG_NOSIGNAL) != (ssize_t)frame->size)
		err(1, "a request was not sent");
	if (epoll_ctl(events, EPOLL_CTL_ADD, client->connection, &event))
		err(1, "epoll");
}

/* Read what has arrived; return whether the answer is complete. */
static int receive(struct client *client)
{
	char *answer = client->answer;
	ssize_t size = recv(client->connection, answer + client->got, LARGEST - client->got, 0);

	if (size <= 0)
		errx(1, "the agent closed the connection");
	client->got += (size_t)size;
	if (client->got < HEADER || client->got < HEADER + number(answer + 8) + number(answer + 12))
		return 0;
	if (number(answer + 4))
		errx(1, "the agent answered %.*s", (int)(client->got - HEADER), answer + HEADER);
	return 1;
}

int main(int count, char **words)
{
	if (count != 4 || strlen(words[1]) >= sizeof address.sun_path)
		errx(2, "usage: clients SOCKET CLIENTS PAIRS");
	strcpy(address.sun_path, words[1]);

	size_t many = strtoul(words[2], NULL, 10);
	unsigned each = 2 * (unsigned)strtoul(words[3], NULL, 10);
	struct client *clients = calloc(many, sizeof *clients);
	uint64_t *latencies = calloc(many * each, sizeof *latencies);
	size_t done = 0;

	events = epoll_create1(0);
	if (!clients || !latencies || events < 0)
		err(1, "no memory");
	for (size_t at = 0; at < 2 * many; at++)
		read_frame(&clients[at / 2].frames[at % 2]);
	for (size_t at = 0; at < many; at++) {
		clients[at].left = each;
		ask(&clients[at]);
	}
	while (done < many * each) {
		struct epoll_event ready[64];
		int found = epoll_wait(events, ready, 64, -1);

		for (int at = 0; at < found; at++) {
			struct client *client = ready[at].data.ptr;

			if (!receive(client))
				continue;
			latencies[done++] = now() - client->began;
			close(client->connection);
			if (--client->left)
				ask(client);
		}
	}
	if (fwrite(latencies, sizeof *latencies, done, stdout) != done || fflush(stdout))
		err(1, "the latencies cannot be written");
	return 0;
}
