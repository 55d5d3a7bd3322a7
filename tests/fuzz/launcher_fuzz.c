/*
 * The launcher under libFuzzer: any environment, any standard input, any agent.
 *
 * An input is three texts behind four bytes: how many bytes the variables (each ended by NUL) and the
 * standard input have; what the agent says is the rest. A bit of the first byte keeps the agent
 * away, another lets it go away early. The launcher itself is compiled in; what it asks of the
 * system is answered by a pair of sockets, a file in memory and a jump back instead of an end.
 *
 * `python -m tests.fuzz launcher` builds it, with SOURCE as the launcher's path, and runs it.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/types.h>

static ssize_t fuzz_write(int fd, const void *data, size_t size);
static int fuzz_connect(int fd);
static _Noreturn void fuzz_exit(int status);
static FILE *fuzz_stdout;

/* The launcher's headers come first: what is renamed here is the launcher's alone. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define main launcher_main
#define write(fd, data, size) fuzz_write(fd, data, size)
#define connect(fd, address, size) fuzz_connect(fd)
#define execv(path, argv) fuzz_exec(path)
#define _exit(status) fuzz_exit(status)
#undef stdout
#define stdout fuzz_stdout
static int fuzz_exec(const char *path);
#include SOURCE
#undef main
#undef write
#undef connect
#undef execv
#undef _exit

static jmp_buf end;
static int agent_end = -1, agent_answers;
static const uint8_t *said;
static size_t said_size;

static _Noreturn void fuzz_exit(int status)
{
	longjmp(end, 1 + (status != 0));
}

static int fuzz_exec(const char *path)
{
	if (!strstr(path, "fastipam-direct"))
		abort();
	fuzz_exit(0);
}

/* What it says is read, every byte of it, and goes nowhere. */
static ssize_t fuzz_write(int fd, const void *data, size_t size)
{
	static volatile unsigned char sum;
	size_t at;
	if (fd != 1 && fd != 2)
		return write(fd, data, size);
	for (at = 0; at < size; at++)
		sum ^= ((const unsigned char *)data)[at];
	return (ssize_t)size;
}

/* The agent has said all that it will before it is asked: its socket holds it. */
static int fuzz_connect(int fd)
{
	int pair[2], room = 1 << 20;
	if (!agent_answers) {
		errno = ECONNREFUSED;
		return -1;
	}
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) < 0)
		abort();
	setsockopt(pair[1], SOL_SOCKET, SO_SNDBUF, &room, sizeof room);
	setsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, &room, sizeof room);
	if (send(pair[1], said, said_size, MSG_DONTWAIT) != (ssize_t)said_size)
		abort();
	shutdown(pair[1], SHUT_WR);
	if (dup3(pair[0], fd, O_CLOEXEC) < 0)
		abort();
	close(pair[0]);
	agent_end = pair[1];
	return 0;
}

/* As if the process were a new one. */
static void clear(struct buffer *buffer, char *data, size_t room)
{
	if (buffer->allocated)
		free(buffer->data);
	*buffer = (struct buffer){ .data = data, .room = room };
}

static void forget(void)
{
	clear(&request, usual_request, sizeof usual_request);
	clear(&answer, usual_answer, sizeof usual_answer);
	input_at = 0;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	fuzz_stdout = fopen("/dev/null", "w");
	return fuzz_stdout ? 0 : -1;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static char *variables[64];
	static char text[1 << 12];
	char *argv[] = { (char[]){ "launcher" }, NULL };
	char **before = environ;
	size_t variables_size, input_size, at, count = 0;
	int fd, lowest;
	if (size < 4)
		return 0;
	agent_answers = !(data[0] & 0x80);
	variables_size = (size_t)(data[0] & 0x0f) << 8 | data[1];
	input_size = (size_t)data[2] << 8 | data[3];
	data += 4;
	size -= 4;
	if (variables_size > size)
		variables_size = size;
	if (variables_size >= sizeof text)
		variables_size = sizeof text - 1;
	memcpy(text, data, variables_size);
	text[variables_size] = 0;
	for (at = 0; at < variables_size && count < 63; at += strlen(text + at) + 1)
		if (strchr(text + at, '='))
			variables[count++] = text + at;
	variables[count] = NULL;
	data += variables_size;
	size -= variables_size;
	if (input_size > size)
		input_size = size;
	said = data + input_size;
	said_size = size - input_size;

	lowest = dup(0);
	fd = memfd_create("stdin", MFD_CLOEXEC);
	if (lowest < 0 || fd < 0 || write(fd, data, input_size) != (ssize_t)input_size ||
	    lseek(fd, 0, SEEK_SET) < 0 || dup2(fd, 0) < 0)
		abort();
	close(fd);
	environ = variables;
	agent_end = -1;
	if (setjmp(end) == 0)
		(void)launcher_main(1, argv);

	/* Put everything back: the process that this is ends otherwise. */
	environ = before;
	for (fd = lowest + 1; fd < lowest + 8; fd++)
		if (fd != agent_end && fd != fileno(fuzz_stdout))
			close(fd);
	if (agent_end >= 0)
		close(agent_end);
	dup2(lowest, 0);
	close(lowest);
	forget();
	return 0;
}
