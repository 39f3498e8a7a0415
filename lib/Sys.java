import java.io.IOException;
import java.lang.foreign.Arena;
import java.lang.foreign.FunctionDescriptor;
import java.lang.foreign.Linker;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.lang.invoke.MethodHandle;
import java.net.Inet6Address;
import java.net.InetAddress;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.Optional;

/**
 * System calls that the JDK lacks, through java.lang.foreign: raw sockets, privileges, terminals, exec. They go through
 * glibc, whose set*id functions change all threads of a process (nptl(7)); capset(2) changes the calling thread.
 */
final class Sys {
    static final int AF_INET = 2, AF_INET6 = 10;
    static final int CAP_NET_RAW = 13;
    private static final int SOCK_RAW = 3, IPPROTO_RAW = 255;
    private static final int PR_SET_DUMPABLE = 4, LINUX_CAPABILITY_VERSION_3 = 0x20080522;
    private static final int O_RDWR = 2, TIOCNOTTY = 0x5422, SIGHUP = 1, SIG_IGN = 1, SEEK_END = 2;

    /**
     * One type for all functions here. Each takes integers and pointers, at most six, which every 64-bit Linux passes in
     * registers, where one too many is not seen; a second type would cost each start 10 milliseconds.
     */
    private static final MethodHandle CALL;

    static {
        var word = ValueLayout.JAVA_LONG;
        CALL = Linker.nativeLinker().downcallHandle(FunctionDescriptor.of(word, word, word, word, word, word, word));
    }

    private Sys() {}

    /** A raw socket to which whole IP packets are written (raw(7)); -1 if that is not permitted or not there. */
    static int rawSocket(int family) {
        return (int) call("socket", family, SOCK_RAW, IPPROTO_RAW);
    }

    /** Sends one whole IP packet. */
    static void send(int socket, byte[] packet, InetAddress to) throws IOException {
        try (var arena = Arena.ofConfined()) {
            var data = arena.allocateFrom(ValueLayout.JAVA_BYTE, packet);
            var address = arena.allocateFrom(ValueLayout.JAVA_BYTE, sockaddr(to));
            if (call("sendto", socket, data.address(), packet.length, 0, address.address(), address.byteSize()) != packet.length) {
                throw new IOException("the kernel did not send the packet to " + to.getHostAddress()
                        + ": is there a route, and does a firewall on this host let it out?");
            }
        }
    }

    /** struct sockaddr_in or sockaddr_in6 with port 0. */
    private static byte[] sockaddr(InetAddress to) {
        boolean six = to instanceof Inet6Address;
        var bytes = ByteBuffer.allocate(six ? 28 : 16).order(ByteOrder.nativeOrder());
        bytes.putShort((short) (six ? AF_INET6 : AF_INET)).position(six ? 8 : 4).put(to.getAddress());
        if (to instanceof Inet6Address v6) {
            bytes.putInt(v6.getScopeId());
        }
        return bytes.array();
    }

    static int uid() {
        return (int) call("geteuid");
    }

    static int gid() {
        return (int) call("getegid");
    }

    /** Becomes {@code uid} and {@code gid} with no other groups than {@code groups}, in every thread and for good. */
    static void dropTo(int uid, int gid, int... groups) {
        try (var arena = Arena.ofConfined()) {
            var list = arena.allocateFrom(ValueLayout.JAVA_INT, groups);
            must("setgroups", groups.length, list.address());
            must("setgid", gid);
            must("setuid", uid);
        }
        if ((int) call("setuid", 0) == 0) {
            throw new Failure("root came back after it was given up");
        }
        closeToOthers();
    }

    /** Keeps other processes, also the same user's, from tracing this one, its memory and its descriptors. */
    static void closeToOthers() {
        must("prctl", PR_SET_DUMPABLE, 0);
    }

    /** Gives all capabilities of this thread up, and so those of every thread that it starts. */
    static void dropCapabilities() {
        try (var arena = Arena.ofConfined()) {
            var header = arena.allocateFrom(ValueLayout.JAVA_INT, LINUX_CAPABILITY_VERSION_3, 0);
            must("capset", header.address(), arena.allocate(6 * 4).address());
        }
    }

    /** Leaves the controlling terminal, so that nothing can be typed into it; Ctrl-C goes on to reach this process. */
    static void leaveTerminal() {
        try (var arena = Arena.ofConfined()) {
            long tty = call("open", arena.allocateFrom("/dev/tty").address(), O_RDWR);
            if ((int) tty >= 0) {
                long handler = call("signal", SIGHUP, SIG_IGN); // which a session's leader would get now
                must("ioctl", tty, TIOCNOTTY);
                call("signal", SIGHUP, handler);
                must("close", tty);
            }
        }
    }

    /** Replaces this process by another program; returns only if that cannot be started. */
    static void exec(List<String> command) {
        try (var arena = Arena.ofConfined()) {
            var argv = arena.allocate(ValueLayout.ADDRESS, command.size() + 1);
            for (int i = 0; i < command.size(); i++) {
                argv.setAtIndex(ValueLayout.ADDRESS, i, arena.allocateFrom(command.get(i)));
            }
            call("execv", argv.get(ValueLayout.ADDRESS, 0).address(), argv.address());
        }
    }

    /** The entry in /proc/self/fd of a file that this process has open. It follows the file when that moves or goes. */
    static Optional<Path> descriptor(Path file) throws IOException {
        try (var open = Files.newDirectoryStream(Path.of("/proc/self/fd"))) {
            for (var fd : open) {
                if (Files.isSymbolicLink(fd) && Files.readSymbolicLink(fd).equals(file)) {
                    return Optional.of(fd);
                }
            }
        }
        return Optional.empty();
    }

    /** Moves an open file to its end, which the JDK does by size, and /dev/kmsg has none. */
    static void seekToEnd(Path file) throws IOException {
        int fd = Integer.parseInt(descriptor(file).orElseThrow().getFileName().toString());
        must("lseek", fd, 0, SEEK_END);
    }

    private static void must(String function, long... arguments) {
        if ((int) call(function, arguments) < 0) {
            throw new Failure("the kernel refused " + function + "(2): does a container or seccomp forbid it?");
        }
    }

    private static long call(String function, long... arguments) {
        var a = Arrays.copyOf(arguments, 6);
        try {
            MemorySegment address = Linker.nativeLinker().defaultLookup().findOrThrow(function);
            return (long) CALL.invokeExact(address, a[0], a[1], a[2], a[3], a[4], a[5]);
        } catch (Throwable e) {
            throw new IllegalStateException(function, e);
        }
    }
}
