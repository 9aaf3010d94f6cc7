/*
 * The first process of an enclave image that does not come with AWS's bootstrap: it does what that one does, in its order.
 *
 *   /dev and console; kernel modules named in /modules (one path a line, in order); the heartbeat: connect to CID 3, port
 *   9000, write 0xB7, read it back; /proc, /sys and file systems in memory below /rootfs; chroot there; run the command in
 *   /cmd (one argument a line) with the environment in /env (one NAME=VALUE a line); reap; when the command ends, reboot.
 *
 * Any failure ends the machine: there is nobody to tell. Build: cc -static -Os, see the Makefile.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/vm_sockets.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define ROOT "/rootfs"
#define PARENT_CID 3
#define HEARTBEAT_PORT 9000
#define HEARTBEAT 0xB7
#define LINES_MAX 256
#define FILE_MAX (64 * 1024)

static void end(void)
{
	sync();
	reboot(RB_AUTOBOOT);
	for (;;)
		pause();
}

static void die_on(int failed, const char *what)
{
	if (!failed)
		return;
	fprintf(stderr, "init: %s: %s\n", what, strerror(errno));
	end();
}

static void mounted(const char *type, const char *target, unsigned long flags, const char *options)
{
	if (mkdir(target, 0755) != 0)
		die_on(errno != EEXIST, target);
	die_on(mount(type, target, type, flags, options) != 0 && errno != EBUSY, target);
}

static void console(void)
{
	int fd = open("/dev/console", O_RDWR);

	if (fd < 0) /* a production enclave has none */
		fd = open("/dev/null", O_RDWR);
	die_on(fd < 0, "/dev/null");
	for (int i = 0; i < 3; i++)
		dup2(fd, i);
	if (fd > 2)
		close(fd);
}

/* The lines of a file, ended by NULL; an absent file has none where it may be absent. */
static char **lines(const char *path, int optional)
{
	static char *none[1];
	char *text, *line, *rest;
	char **result = calloc(LINES_MAX + 1, sizeof *result);
	ssize_t size;
	int count = 0, fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0 && optional && errno == ENOENT)
		return none;
	text = malloc(FILE_MAX + 1);
	die_on(fd < 0 || !result || !text, path);
	size = read(fd, text, FILE_MAX);
	die_on(size < 0, path);
	text[size] = '\0';
	close(fd);
	for (line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
		errno = E2BIG;
		die_on(count == LINES_MAX, path);
		result[count++] = line;
	}
	return result;
}

static void load_modules(void)
{
	for (char **path = lines("/modules", 1); *path; path++) {
		int fd = open(*path, O_RDONLY | O_CLOEXEC);

		die_on(fd < 0, *path);
		die_on(syscall(SYS_finit_module, fd, "", 0) != 0 && errno != EEXIST, *path);
		close(fd);
		unlink(*path);
	}
}

/* Tells the hypervisor's side that the machine is up; it answers with the same byte. */
static void heartbeat(void)
{
	struct sockaddr_vm parent = { .svm_family = AF_VSOCK, .svm_port = HEARTBEAT_PORT, .svm_cid = PARENT_CID };
	unsigned char byte = HEARTBEAT;
	int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);

	die_on(fd < 0, "vsock");
	die_on(connect(fd, (struct sockaddr *)&parent, sizeof parent) != 0, "heartbeat: connect");
	die_on(write(fd, &byte, 1) != 1, "heartbeat: write");
	byte = 0;
	die_on(read(fd, &byte, 1) != 1, "heartbeat: read");
	errno = EPROTO;
	die_on(byte != HEARTBEAT, "heartbeat");
	close(fd);
}

static void enter_root(void)
{
	die_on(mount(ROOT, ROOT, NULL, MS_BIND, NULL) != 0, "bind " ROOT);
	die_on(chdir(ROOT) != 0, ROOT);
	mounted("proc", "proc", MS_NODEV | MS_NOSUID | MS_NOEXEC, NULL);
	mounted("sysfs", "sys", MS_NODEV | MS_NOSUID | MS_NOEXEC | MS_RDONLY, NULL);
	mounted("devtmpfs", "dev", MS_NOSUID | MS_NOEXEC, "mode=0755");
	mounted("tmpfs", "dev/shm", MS_NODEV | MS_NOSUID | MS_NOEXEC, "mode=1777");
	mounted("tmpfs", "tmp", MS_NODEV | MS_NOSUID | MS_NOEXEC, "mode=1777");
	mounted("tmpfs", "run", MS_NODEV | MS_NOSUID | MS_NOEXEC, "mode=0755");
	die_on(mount(".", "/", NULL, MS_MOVE, NULL) != 0, "move " ROOT);
	die_on(chroot(".") != 0 || chdir("/") != 0, "chroot");
	die_on(mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NODEV | MS_NOSUID, NULL) != 0, "read-only root");
}

static pid_t launch(char **command, char **environment)
{
	pid_t pid = fork();
	sigset_t all;

	die_on(pid < 0, "fork");
	if (pid == 0) {
		sigfillset(&all);
		sigprocmask(SIG_UNBLOCK, &all, NULL);
		setsid();
		execve(command[0], command, environment);
		perror(command[0]);
		_exit(127);
	}
	return pid;
}

int main(void)
{
	char **command, **environment;
	sigset_t all;
	pid_t pid, ended;

	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, NULL);
	umask(0022);
	mounted("devtmpfs", "/dev", MS_NOSUID | MS_NOEXEC, "mode=0755");
	console();
	die_on(getpid() != 1, "not the first process");
	load_modules();
	heartbeat();
	command = lines("/cmd", 0);
	environment = lines("/env", 1);
	errno = ENOEXEC;
	die_on(!command[0], "/cmd");
	enter_root();
	pid = launch(command, environment);
	do {
		ended = wait(NULL);
	} while (ended != pid && (ended > 0 || errno == EINTR));
	end();
}
