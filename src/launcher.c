/*
 * The launcher: the CNI binary, which passes each call to the agent.
 *
 * It connects to the agent's Unix socket, sends the CNI_* variables and standard input, and copies
 * standard output, standard error and the exit status back. It parses nothing. Without an agent it
 * executes the Python entry point that is installed beside it, with the same standard input. If that
 * fails too, it prints an error object of the CNI specification (code 11, or 50 for STATUS).
 *
 * The protocol, with integers in network byte order (agent/protocol.py is the agent's side):
 *
 *     request    magic "FIP1", length of the variables, length of the input, variables, input
 *     answer     magic "FIP1", exit status, length of the output, length of the messages, both
 *
 * where each variable is a text NAME=value that ends with a NUL byte.
 *
 * When the agent closes the connection before the whole answer has arrived, the entry point repeats the
 * request. A repeated DEL, CHECK, GC or STATUS is harmless. A repeated ADD whose first run was
 * committed fails because the owner already has an address, and the runtime's DEL releases that.
 * Nothing is printed before the answer is complete.
 *
 * Environment: FASTIPAM_SOCKET is the agent's socket. FASTIPAM_TIMEOUT is the number of seconds, from
 * the start of the launcher, to wait for the agent; reading standard input has no limit.
 *
 * The launcher adds two variables. FASTIPAM_STARTED, for agent and entry point, is the time of its start
 * on the monotonic clock in nanoseconds: GC spares leases that are younger than the call, however
 * long the call waited. FASTIPAM_NETNS, for the agent, is the "device:inode" of CNI_NETNS, of the
 * launcher's network namespace and of its mount namespace (each empty when it cannot be read), because
 * the paths of an agent in a container may lead elsewhere. A last number is the time at which the file of
 * CNI_NETNS was made, in nanoseconds, or 0 for a link (namespaces.py says what it is for).
 *
 * Starting the process is most of a call's time. So the usual call allocates no memory and makes few
 * system calls, and setup.py prefers a libc that does not query the processor's features when it starts:
 * in a virtual machine the hypervisor has to answer each query.
 */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define DEFAULT_SOCKET "/run/fastipam/agent.sock"
#define DIRECT "fastipam-direct"
#define MAGIC "FIP1"
#define STARTED "FASTIPAM_STARTED"
#define NETNS "FASTIPAM_NETNS"

enum {
	/* One byte more than the agent accepts, so that the agent reports the error. */
	LARGEST_INPUT = (4 << 20) + 1,
	LARGEST_VARIABLES = 256 << 10,
	LARGEST_ANSWER = 16 << 20,
	/* Longer than the agent waits for a store: a request without an answer by then gets none. */
	DEFAULT_TIMEOUT_S = 10,
	GC_TIMEOUT_S = 30, /* a GC may have to check a million leases */
	LONGEST_TIMEOUT_S = 3600,
	REQUEST_HEADER = 12,
	ANSWER_HEADER = 16,
};

extern char **environ;

/* A buffer that grows. It begins with static memory, which is large enough for a usual call. */
struct buffer {
	char *data;
	size_t size, room;
	int allocated;
};

static char usual_request[1 << 15], usual_answer[1 << 13];
static struct buffer request = { .data = usual_request, .room = sizeof usual_request };
static struct buffer answer = { .data = usual_answer, .room = sizeof usual_answer };
static size_t input_at; /* offset of standard input in the request; 0: not read */
static char started[24];
static int64_t deadline_ms;

static int64_t now_ms(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* ---- The error object ------------------------------------------------------------------------ */

static void put_json(FILE *out, const char *text)
{
	for (; *text; text++) {
		unsigned char c = (unsigned char)*text;
		if (c == '"' || c == '\\')
			fprintf(out, "\\%c", c);
		else if (c < 0x20 || c > 0x7e)
			fprintf(out, "\\u%04x", c);
		else
			fputc(c, out);
	}
}

static _Noreturn void fail(const char *message, const char *subject, const char *reason,
			   const char *details)
{
	const char *command = getenv("CNI_COMMAND");
	int code = command && strcmp(command, "STATUS") == 0 ? 50 : 11;
	fprintf(stdout, "{\n    \"cniVersion\": \"1.1.0\",\n    \"code\": %d,\n    \"msg\": \"", code);
	put_json(stdout, message);
	put_json(stdout, subject);
	if (*reason) {
		fputs(": ", stdout);
		put_json(stdout, reason);
	}
	fputs("\",\n    \"details\": \"", stdout);
	put_json(stdout, details);
	fputs("\"\n}", stdout);
	fflush(stdout);
	_exit(1);
}

/* ---- Reading and writing --------------------------------------------------------------------- */

static int reserve(struct buffer *buffer, size_t more)
{
	size_t room = buffer->room;
	char *data;
	if (room - buffer->size >= more)
		return 0;
	while (room - buffer->size < more)
		room *= 2;
	data = realloc(buffer->allocated ? buffer->data : NULL, room);
	if (!data)
		return -1;
	if (!buffer->allocated)
		memcpy(data, buffer->data, buffer->size);
	buffer->data = data;
	buffer->room = room;
	buffer->allocated = 1;
	return 0;
}

static int append(struct buffer *buffer, const char *data, size_t size)
{
	if (reserve(buffer, size) < 0)
		return -1;
	memcpy(buffer->data + buffer->size, data, size);
	buffer->size += size;
	return 0;
}

/* Write a number in decimal and a NUL. Returns the address of the NUL. */
static char *put_number(char *out, uint64_t number)
{
	char digits[20];
	int count = 0;
	do
		digits[count++] = (char)('0' + number % 10);
	while (number /= 10);
	while (count)
		*out++ = digits[--count];
	*out = '\0';
	return out;
}

/* Wait for a descriptor until the deadline. Returns 0, or -1 with errno (ETIMEDOUT). */
static int await(int fd, short events)
{
	for (;;) {
		struct pollfd p = { .fd = fd, .events = events };
		int64_t left = deadline_ms - now_ms();
		int n;
		if (left <= 0) {
			errno = ETIMEDOUT;
			return -1;
		}
		n = poll(&p, 1, left > INT_MAX ? INT_MAX : (int)left);
		if (n > 0)
			return 0;
		if (n < 0 && errno != EINTR)
			return -1;
	}
}

static int send_all(int fd, const char *data, size_t size)
{
	while (size) {
		ssize_t n = send(fd, data, size, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n > 0) {
			data += n;
			size -= (size_t)n;
		} else if (n < 0 && errno == EINTR) {
			continue;
		} else if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
			if (await(fd, POLLOUT) < 0)
				return -1;
		} else {
			return -1;
		}
	}
	return 0;
}

/* Receive until the buffer holds at least size bytes. Returns 0, or -1 with errno. */
static int receive(int fd, struct buffer *buffer, size_t size)
{
	if (size > buffer->size && reserve(buffer, size - buffer->size) < 0)
		return -1;
	while (buffer->size < size) {
		ssize_t n;
		if (await(fd, POLLIN) < 0)
			return -1;
		n = recv(fd, buffer->data + buffer->size, buffer->room - buffer->size,
			 MSG_DONTWAIT);
		if (n > 0) {
			buffer->size += (size_t)n;
		} else if (n == 0) {
			errno = ECONNRESET;
			return -1;
		} else if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR) {
			return -1;
		}
	}
	return 0;
}

/* Write all data to a descriptor that the runtime has passed. Returns 0, or -1 with errno. */
static int write_out(int fd, const char *data, size_t size)
{
	while (size) {
		ssize_t n = write(fd, data, size);
		if (n > 0) {
			data += n;
			size -= (size_t)n;
		} else if (n < 0 && errno == EAGAIN) {
			struct pollfd p = { .fd = fd, .events = POLLOUT };
			poll(&p, 1, -1);
		} else if (n < 0 && errno != EINTR) {
			return -1;
		}
	}
	return 0;
}

/* Append standard input to the request, up to LARGEST_INPUT. Returns 0, or -1 with errno. */
static int read_input(void)
{
	input_at = request.size;
	while (request.size - input_at < LARGEST_INPUT) {
		size_t want = LARGEST_INPUT - (request.size - input_at);
		ssize_t n;
		if (reserve(&request, 1) < 0)
			return -1;
		if (want > request.room - request.size)
			want = request.room - request.size;
		n = read(0, request.data + request.size, want);
		if (n > 0)
			request.size += (size_t)n;
		else if (n == 0)
			return 0;
		else if (errno == EAGAIN) {
			if (await(0, POLLIN) < 0)
				return -1;
		} else if (errno != EINTR)
			return -1;
	}
	return 0;
}

/* ---- Without the agent ----------------------------------------------------------------------- */

/* Write the input that was already read to a file in memory, and make that standard input again. */
static int restore_input(void)
{
	int fd;
	size_t done = input_at;
	if (!input_at)
		return 0;
	fd = memfd_create("input", MFD_CLOEXEC);
	if (fd < 0)
		return -1;
	while (done < request.size) {
		ssize_t n = write(fd, request.data + done, request.size - done);
		if (n < 0 && errno != EINTR)
			return -1;
		if (n > 0)
			done += (size_t)n;
	}
	return lseek(fd, 0, SEEK_SET) < 0 || dup2(fd, 0) < 0 ? -1 : 0;
}

static _Noreturn void run_directly(char **argv)
{
	static char path[PATH_MAX + sizeof DIRECT];
	static char message[2 * PATH_MAX + 64];
	const char *socket_path = getenv("FASTIPAM_SOCKET");
	ssize_t n = readlink("/proc/self/exe", path, PATH_MAX - 1);
	char *slash;
	if (n <= 0) {
		const char *name = (const char *)getauxval(AT_EXECFN);
		n = snprintf(path, PATH_MAX, "%s", name ? name : "");
	}
	path[n < PATH_MAX ? n : PATH_MAX - 1] = '\0';
	slash = strrchr(path, '/');
	strcpy(slash ? slash + 1 : path, DIRECT);
	if (restore_input() < 0)
		fail("standard input cannot be kept for ", path, strerror(errno), "try again");
	argv[0] = path;
	setenv(STARTED, started, 1);
	signal(SIGPIPE, SIG_DFL);
	execv(path, argv);
	snprintf(message, sizeof message, "%.*s, and %s cannot be started", PATH_MAX - 1,
		 socket_path && *socket_path ? socket_path : DEFAULT_SOCKET, path);
	fail("no fastipam agent answers at ", message, strerror(errno),
	     "start the agent (fastipam agent, or systemctl start fastipam-agent), "
	     "or run fastipam install again");
}

/* ---- With the agent -------------------------------------------------------------------------- */

static int connect_agent(void)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	const char *path = getenv("FASTIPAM_SOCKET");
	int64_t left = deadline_ms - now_ms();
	struct timeval wait = { .tv_sec = left / 1000, .tv_usec = left % 1000 * 1000 + 1 };
	int fd;
	if (!path || !*path)
		path = DEFAULT_SOCKET;
	if (strlen(path) >= sizeof address.sun_path)
		return -1;
	strcpy(address.sun_path, path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 3) {
		/* The runtime has closed descriptor 0, 1 or 2, and the socket got its number: a write to
		 * standard output would go to the agent. */
		if (fd >= 0)
			close(fd);
		return -1;
	}
	/* Limits connect(), which waits when the agent's queue of connections is full. */
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof wait);
	while (connect(fd, (struct sockaddr *)&address, sizeof address) < 0)
		if (errno != EINTR) {
			close(fd);
			return -1;
		}
	return fd;
}

/* Append a variable to the request. Returns 0, or -1 when the request becomes too large. */
static int append_variable(const char *name, const char *value)
{
	if (append(&request, name, strlen(name)) < 0 || append(&request, "=", 1) < 0 ||
	    append(&request, value, strlen(value) + 1) < 0)
		return -1;
	return request.size > LARGEST_VARIABLES ? -1 : 0;
}

/* Write the "device:inode" of a file. Returns the address of the NUL at its end. */
static char *put_identity(char *out, const struct stat *status)
{
	out = put_number(out, status->st_dev);
	*out++ = ':';
	return put_number(out, status->st_ino);
}

static int append_netns(void)
{
	static const char *const own[] = {"/proc/self/ns/net", "/proc/self/ns/mnt"};
	const char *path = getenv("CNI_NETNS");
	char text[3 * 42 + 21], *end = text; /* numbers of 20 digits, colons, blanks, NUL */
	struct stat status;
	uint64_t born = 0;
	size_t each;
	if (!path || !*path)
		return 0;
	if (lstat(path, &status) == 0) {
		int link = S_ISLNK(status.st_mode);
		if (!link && status.st_mtim.tv_sec >= 0)
			born = (uint64_t)status.st_mtim.tv_sec * 1000000000 + (uint64_t)status.st_mtim.tv_nsec;
		if (!link || stat(path, &status) == 0)
			end = put_identity(end, &status);
	}
	for (each = 0; each < sizeof own / sizeof *own; each++) {
		*end++ = ' ';
		if (stat(own[each], &status) == 0)
			end = put_identity(end, &status);
	}
	*end++ = ' ';
	put_number(end, born);
	return append_variable(NETNS, text);
}

/* Write the request's header and variables. Returns 0, or -1 when they are too large. */
static int begin_request(void)
{
	uint32_t word;
	char **each;
	request.size = REQUEST_HEADER;
	for (each = environ; *each; each++) {
		size_t size = strlen(*each) + 1;
		if (strncmp(*each, "CNI_", 4) != 0)
			continue;
		if (request.size + size > LARGEST_VARIABLES || append(&request, *each, size) < 0)
			return -1;
	}
	if (append_variable(STARTED, started) < 0 || append_netns() < 0)
		return -1;
	memcpy(request.data, MAGIC, 4);
	word = htonl((uint32_t)(request.size - REQUEST_HEADER));
	memcpy(request.data + 4, &word, 4);
	return 0;
}

static int send_request(int fd)
{
	uint32_t word = htonl(input_at ? (uint32_t)(request.size - input_at) : 0);
	memcpy(request.data + 8, &word, 4);
	return send_all(fd, request.data, request.size);
}

/* Receive the whole answer. Returns 0, or -1 with errno (ETIMEDOUT: the agent is too slow). */
static int receive_answer(int fd, uint32_t sizes[3])
{
	int at;
	if (receive(fd, &answer, ANSWER_HEADER) < 0)
		return -1;
	memcpy(sizes, answer.data + 4, 12);
	for (at = 0; at < 3; at++)
		sizes[at] = ntohl(sizes[at]);
	if (memcmp(answer.data, MAGIC, 4) != 0 || sizes[0] > 255 || sizes[1] > LARGEST_ANSWER ||
	    sizes[2] > LARGEST_ANSWER) {
		errno = EPROTO;
		return -1;
	}
	return receive(fd, &answer, ANSWER_HEADER + (size_t)sizes[1] + sizes[2]);
}

static void note_start(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	put_number(started, (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec);
}

static void set_deadline(void)
{
	const char *text = getenv("FASTIPAM_TIMEOUT"), *command = getenv("CNI_COMMAND");
	int usual = command && !strcmp(command, "GC") ? GC_TIMEOUT_S : DEFAULT_TIMEOUT_S;
	char *end = NULL;
	double seconds = text && *text ? strtod(text, &end) : usual;
	if ((end && *end) || !(seconds > 0 && seconds <= LONGEST_TIMEOUT_S))
		seconds = usual;
	deadline_ms = now_ms() + (int64_t)(seconds * 1000);
}

int main(int argc, char **argv)
{
	const char *command, *output;
	uint32_t sizes[3];
	int fd;
	(void)argc;
	signal(SIGPIPE, SIG_IGN);
	note_start();
	set_deadline();
	fd = connect_agent();
	if (fd < 0 || begin_request() < 0)
		run_directly(argv);
	command = getenv("CNI_COMMAND");
	/* VERSION needs no input. Without a command no input is sent, and reading it might block. */
	if (command && *command && strcmp(command, "VERSION") != 0 && read_input() < 0) {
		if (request.size > input_at)
			fail("standard input", " cannot be read", strerror(errno), "");
		input_at = 0; /* the entry point gets the same error and reports it */
		run_directly(argv);
	}
	if (send_request(fd) < 0 || receive_answer(fd, sizes) < 0) {
		if (errno == ETIMEDOUT)
			fail("the fastipam agent", " has not answered in time", "",
			     "the environment variable FASTIPAM_TIMEOUT sets how many seconds to wait; "
			     "look at the agent's log");
		run_directly(argv);
	}
	output = answer.data + ANSWER_HEADER;
	write_out(2, output + sizes[1], sizes[2]);
	if (write_out(1, output, sizes[1]) < 0) {
		/* After a failed ADD the runtime calls DEL, which releases the address. */
		dprintf(2, "fastipam: the answer could not be written to standard output: %s\n",
			strerror(errno));
		return 1;
	}
	return (int)sizes[0];
}
