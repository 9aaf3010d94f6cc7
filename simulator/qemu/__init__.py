"""A machine for the real image: QEMU with a security module and a vsock of our own behind vhost-user sockets."""
