import java.io.IOException;
import java.lang.foreign.Arena;
import java.lang.foreign.Linker;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.net.Inet6Address;
import java.net.InetAddress;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.util.List;

/** System calls that the JDK lacks, made through glibc: raw sockets, capabilities, exec. */
final class Sys {
    static final int AF_INET = 2, AF_INET6 = 10;
    private static final int SOCK_RAW = 3, IPPROTO_RAW = 255, PR_SET_DUMPABLE = 4;
    private static final int LINUX_CAPABILITY_VERSION_3 = 0x20080522;

    private Sys() {}

    /** A raw socket, to which whole IP packets are written (raw(7)); -errno if there is none. */
    static int rawSocket(int family) {
        return (int) Libc.call("socket", family, SOCK_RAW, IPPROTO_RAW);
    }

    /**
     * Sends one whole IP packet. The socket is bound first, so that the packet leaves where packets
     * from {@code from} leave: the kernel does not look into its header for that.
     */
    static synchronized void send(int socket, byte[] packet, InetAddress from, InetAddress to)
            throws IOException {
        try (var arena = Arena.ofConfined()) {
            var data = arena.allocateFrom(ValueLayout.JAVA_BYTE, packet);
            var source = sockaddr(arena, from, 0);
            var target = sockaddr(arena, to, 0);
            if (!from.isLinkLocalAddress()) { // that would tie the socket to its link for good
                must("bind", socket, source.address(), source.byteSize());
            }
            long sent = Libc.call("sendto", socket, data.address(), packet.length, 0,
                    target.address(), target.byteSize());
            if (sent != packet.length) {
                throw new IOException("the kernel did not send the packet to " + to.getHostAddress()
                        + " (" + errno(-sent) + "): does a firewall on this host let it out?");
            }
        }
    }

    /** struct sockaddr_in or sockaddr_in6 (ip(7), ipv6(7)). */
    static MemorySegment sockaddr(Arena arena, InetAddress address, int port) {
        boolean six = address instanceof Inet6Address;
        var bytes = ByteBuffer.allocate(six ? 28 : 16).order(ByteOrder.nativeOrder())
                .putShort((short) (six ? AF_INET6 : AF_INET))
                .put((byte) (port >> 8)).put((byte) port)
                .put(six ? 8 : 4, address.getAddress());
        if (address instanceof Inet6Address v6) {
            bytes.putInt(24, v6.getScopeId());
        }
        return arena.allocateFrom(ValueLayout.JAVA_BYTE, bytes.array());
    }

    /** 64 random bits (getrandom(2)); a SecureRandom would take milliseconds to start. */
    static long random() {
        try (var arena = Arena.ofConfined()) {
            var bits = arena.allocate(ValueLayout.JAVA_LONG);
            must("getrandom", bits.address(), bits.byteSize(), 0);
            return bits.get(ValueLayout.JAVA_LONG, 0);
        }
    }

    static int uid() {
        return (int) Libc.call("geteuid");
    }

    static int gid() {
        return (int) Libc.call("getegid");
    }

    /**
     * Keeps other processes, even the same user's, from tracing this one and taking its sockets.
     */
    static void forbidTracing() {
        must("prctl", PR_SET_DUMPABLE, 0);
    }

    /** Gives up all capabilities of this thread, and so of every thread that it will start. */
    static void dropCapabilities() {
        try (var arena = Arena.ofConfined()) {
            var header = arena.allocateFrom(ValueLayout.JAVA_INT, LINUX_CAPABILITY_VERSION_3, 0);
            must("capset", header.address(), arena.allocate(24, 4).address()); // all sets empty
        }
    }

    /** What a symbolic link names, a character for each byte: not every locale has all names. */
    static String readLink(String link) {
        try (var arena = Arena.ofConfined()) {
            var target = arena.allocate(4096); // PATH_MAX
            long length = must("readlink", arena.allocateFrom(link).address(), target.address(),
                    target.byteSize());
            return new String(target.asSlice(0, length).toArray(ValueLayout.JAVA_BYTE),
                    StandardCharsets.ISO_8859_1);
        }
    }

    /**
     * Replaces this process by another program, whose arguments have a character for each byte;
     * returns only if that cannot be started, and says why.
     */
    static String exec(List<String> command) {
        try (var arena = Arena.ofConfined()) {
            var argv = arena.allocate(ValueLayout.ADDRESS, command.size() + 1);
            for (int i = 0; i < command.size(); i++) {
                argv.setAtIndex(ValueLayout.ADDRESS, i,
                        arena.allocateFrom(command.get(i), StandardCharsets.ISO_8859_1));
            }
            return errno(-Libc.call("execv", argv.get(ValueLayout.ADDRESS, 0).address(),
                    argv.address()));
        }
    }

    /** Calls a function that answers -1 if it could not. */
    static long must(String function, long... arguments) {
        long result = Libc.call(function, arguments);
        if (result < 0) {
            throw new Failure("the kernel refused " + function + " (" + errno(-result)
                    + "): does a container or a limit forbid it?");
        }
        return result;
    }

    /** An errno's name, such as EPERM; its number if it has none, or if glibc is below 2.32. */
    static String errno(long number) {
        boolean named = Linker.nativeLinker().defaultLookup().find("strerrorname_np").isPresent();
        var name = MemorySegment.ofAddress(named ? Libc.call("strerrorname_np", number) : 0);
        return name.address() == 0 ? "errno " + number
                : name.reinterpret(32).getString(0, StandardCharsets.US_ASCII);
    }
}
