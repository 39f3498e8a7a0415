import java.io.IOException;
import java.lang.foreign.Arena;
import java.lang.foreign.FunctionDescriptor;
import java.lang.foreign.Linker;
import java.lang.foreign.ValueLayout;
import java.lang.invoke.MethodHandle;
import java.net.Inet6Address;
import java.net.InetAddress;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.Arrays;
import java.util.List;

/** System calls that the JDK lacks, made through glibc: raw sockets, capabilities, exec. */
final class Sys {
    static final int AF_INET = 2, AF_INET6 = 10;
    private static final int SOCK_RAW = 3, IPPROTO_RAW = 255, PR_SET_DUMPABLE = 4;
    private static final int LINUX_CAPABILITY_VERSION_3 = 0x20080522;

    /**
     * One type for all functions. They take up to six integers and pointers, which 64-bit Linux
     * passes in registers, where one too many is not seen. A second type would cost 10 ms at every
     * start.
     */
    private static final MethodHandle CALL;

    static {
        var word = ValueLayout.JAVA_LONG;
        CALL = Linker.nativeLinker().downcallHandle(
                FunctionDescriptor.of(word, word, word, word, word, word, word));
    }

    private Sys() {}

    /**
     * A raw socket, to which whole IP packets are written (raw(7)); -1 if there is none to be had.
     */
    static int rawSocket(int family) {
        return (int) call("socket", family, SOCK_RAW, IPPROTO_RAW);
    }

    /** Sends one whole IP packet. */
    static void send(int socket, byte[] packet, InetAddress to) throws IOException {
        // struct sockaddr_in or sockaddr_in6, with port 0
        boolean six = to instanceof Inet6Address;
        var address = ByteBuffer.allocate(six ? 28 : 16).order(ByteOrder.nativeOrder())
                .putShort((short) (six ? AF_INET6 : AF_INET)).put(six ? 8 : 4, to.getAddress());
        if (to instanceof Inet6Address v6) {
            address.putInt(24, v6.getScopeId());
        }
        try (var arena = Arena.ofConfined()) {
            var data = arena.allocateFrom(ValueLayout.JAVA_BYTE, packet);
            var sockaddr = arena.allocateFrom(ValueLayout.JAVA_BYTE, address.array());
            long sent = call("sendto", socket, data.address(), packet.length, 0, sockaddr.address(),
                    sockaddr.byteSize());
            if (sent != packet.length) {
                throw new IOException("the kernel did not send the packet to " + to.getHostAddress()
                        + ": is there a route, and does a firewall on this host let it out?");
            }
        }
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
        return (int) call("geteuid");
    }

    static int gid() {
        return (int) call("getegid");
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

    /** Calls a function that answers -1 if it could not. */
    static void must(String function, long... arguments) {
        if ((int) call(function, arguments) == -1) {
            throw new Failure("the kernel refused " + function + ": does a container forbid it?");
        }
    }

    static long call(String function, long... arguments) {
        var a = Arrays.copyOf(arguments, 6);
        try {
            var address = Linker.nativeLinker().defaultLookup().findOrThrow(function);
            return (long) CALL.invokeExact(address, a[0], a[1], a[2], a[3], a[4], a[5]);
        } catch (Throwable e) {
            throw new IllegalStateException(function, e);
        }
    }
}
