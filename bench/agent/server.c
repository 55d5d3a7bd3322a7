/*
 * A server that only answers: what the connections of clients.c cost by themselves.
 *
 *     server SOCKET
 *
 * It accepts, asks who the client is, reads what has come, writes an answer as long as that of an ADD and
 * closes when the client has: the system calls that an agent cannot do without. It ends when it is killed.
 */

#define _GNU_SOURCE
#include <err.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define AT_ONCE 256

static char buffer[1 << 16];
static const char answer[16 + 200] = {'F', 'I', 'P', '1', [11] = (char)200};

/* Answer what has come; return 0 when the client has closed the connection. */
static int serve(int connection)
{
	ssize_t size = recv(connection, buffer, sizeof buffer, 0);

	if (size > 0)
		send(connection, answer, sizeof answer, MSG_NOSIGNAL);
	return size != 0;
}

int main(int count, char **words)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	struct epoll_event wanted = {.events = EPOLLIN}, ready[AT_ONCE];
	int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0), events = epoll_create1(0);

	if (count != 2 || strlen(words[1]) >= sizeof address.sun_path)
		errx(2, "usage: server SOCKET");
	strcpy(address.sun_path, words[1]);
	wanted.data.fd = listener;
	if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, AT_ONCE) ||
	    epoll_ctl(events, EPOLL_CTL_ADD, listener, &wanted))
		err(1, "%s", words[1]);
	for (;;) {
		int found = epoll_wait(events, ready, AT_ONCE, -1);

		for (int at = 0; at < found; at++) {
			int connection = ready[at].data.fd;

			if (connection != listener) {
				if (!serve(connection))
					close(connection);
				continue;
			}
			while ((connection = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
				struct ucred peer;
				socklen_t size = sizeof peer;

				getsockopt(connection, SOL_SOCKET, SO_PEERCRED, &peer, &size);
				wanted.data.fd = connection;
				epoll_ctl(events, EPOLL_CTL_ADD, connection, &wanted);
				serve(connection);
			}
		}
	}
}
