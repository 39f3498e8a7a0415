import java.io.IOException;
import java.lang.foreign.Arena;
import java.lang.foreign.FunctionDescriptor;
import java.lang.foreign.Linker;
import java.lang.foreign.MemoryLayout;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.lang.invoke.MethodHandle;
import java.net.Inet6Address;
import java.net.InetAddress;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Optional;
import java.util.regex.Pattern;

/**
 * The operating system calls that the JDK lacks, through java.lang.foreign: raw sockets, giving root up, starting again
 * under sudo. Every call goes through glibc, whose set*id functions change all threads of a JVM (man 7 nptl).
 */
final class Sys {
    static final int AF_INET = 2;
    static final int AF_INET6 = 10;
    private static final int SOCK_RAW = 3;
    private static final int IPPROTO_RAW = 255;
    private static final int SEEK_END = 2;

    private static final Linker LINKER = Linker.nativeLinker();
    private static final ValueLayout.OfInt INT = ValueLayout.JAVA_INT;
    private static final ValueLayout.OfLong LONG = ValueLayout.JAVA_LONG;
    private static final MemoryLayout POINTER = ValueLayout.ADDRESS;

    private Sys() {}

    /** A line of the user database. */
    record User(String name, int uid, int gid, Path home) {}

    /** Opens a raw socket to which whole IP packets are written (man 7 raw); -1 if that is not permitted or not there. */
    static int rawSocket(int family) {
        return (int) call("socket", FunctionDescriptor.of(INT, INT, INT, INT), family, SOCK_RAW, IPPROTO_RAW);
    }

    /** Sends one whole IP packet. */
    static void send(int socket, byte[] packet, InetAddress to) throws IOException {
        try (var arena = Arena.ofConfined()) {
            var data = arena.allocateFrom(ValueLayout.JAVA_BYTE, packet);
            var address = arena.allocateFrom(ValueLayout.JAVA_BYTE, sockaddr(to));
            long sent = (long) call("sendto", FunctionDescriptor.of(LONG, INT, POINTER, LONG, INT, POINTER, INT),
                    socket, data, data.byteSize(), 0, address, (int) address.byteSize());
            if (sent != packet.length) {
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

    static boolean isRoot() {
        return (int) call("geteuid", FunctionDescriptor.of(INT)) == 0;
    }

    /** Becomes {@code uid} and {@code gid} with no other groups than {@code groups}, in every thread and for good. */
    static void dropTo(int uid, int gid, int... groups) {
        try (var arena = Arena.ofConfined()) {
            var list = arena.allocateFrom(INT, groups);
            must("setgroups", FunctionDescriptor.of(INT, LONG, POINTER), (long) groups.length, list);
            must("setgid", FunctionDescriptor.of(INT, INT), gid);
            must("setuid", FunctionDescriptor.of(INT, INT), uid);
        }
        if ((int) call("setuid", FunctionDescriptor.of(INT, INT), 0) == 0) {
            throw new IllegalStateException("root came back after it was given up");
        }
    }

    /** Replaces this process by the same java, class path and arguments under sudo; returns only by throwing. */
    static Cli.Failure execSudo(String why) throws IOException {
        var command = new ArrayList<>(List.of("/usr/bin/sudo", "--",
                Files.readSymbolicLink(Path.of("/proc/self/exe")).toString()));
        var own = Files.readString(Path.of("/proc/self/cmdline")).split("\0", -1);
        command.addAll(List.of(own).subList(1, own.length - 1));
        Cli.complain(why + " needs root: asking sudo");
        try (var arena = Arena.ofConfined()) {
            var argv = arena.allocate(ValueLayout.ADDRESS, command.size() + 1);
            for (int i = 0; i < command.size(); i++) {
                argv.setAtIndex(ValueLayout.ADDRESS, i, arena.allocateFrom(command.get(i)));
            }
            call("execv", FunctionDescriptor.of(INT, POINTER, POINTER), arena.allocateFrom(command.getFirst()), argv);
        }
        return new Cli.Failure(why + " needs root, and /usr/bin/sudo cannot be started: install sudo, or run as root");
    }

    /** The /proc entry of a file that this process has open; empty if there is none. It follows the file when that moves. */
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

    /** Moves an open file to its end, which the JDK does by size and /dev/kmsg has none. */
    static void seekToEnd(Path file) throws IOException {
        int fd = Integer.parseInt(descriptor(file).orElseThrow().getFileName().toString());
        if ((long) call("lseek", FunctionDescriptor.of(LONG, INT, LONG, INT), fd, 0L, SEEK_END) < 0) {
            throw new IOException("cannot seek to the end of " + file);
        }
    }

    /** Whether a service of this host listens on a TCP port, as /proc/net tells (proc_pid_net(5); state 0A is LISTEN). */
    static boolean isListening(int port) throws IOException {
        var listening = Pattern.compile(" *\\d+: [0-9A-F]+:%04X [0-9A-F]+:0000 0A .*".formatted(port)).asMatchPredicate();
        for (var table : List.of(Path.of("/proc/net/tcp"), Path.of("/proc/net/tcp6"))) {
            if (Files.exists(table) && Files.readAllLines(table).stream().anyMatch(listening)) {
                return true;
            }
        }
        return false;
    }

    /** Looks up one line of the system's {@code passwd} or {@code group} database, wherever that is kept; empty if none. */
    static List<String> getent(String database, String name) throws IOException {
        var process = new ProcessBuilder("/usr/bin/getent", "--", database, name);
        process.environment().clear();
        var line = new String(process.start().getInputStream().readAllBytes(), StandardCharsets.UTF_8).strip();
        return line.isEmpty() ? List.of() : List.of(line.split(":", -1));
    }

    static User user(String name) throws IOException {
        var fields = getent("passwd", name);
        if (fields.size() < 6) {
            throw new Cli.Failure("there is no user '" + name + "'");
        }
        return new User(name, Integer.parseInt(fields.get(2)), Integer.parseInt(fields.get(3)), Path.of(fields.get(5)));
    }

    /** A group's number. */
    static int group(String name) throws IOException {
        var fields = getent("group", name);
        if (fields.size() < 3) {
            throw new Cli.Failure("there is no group '" + name + "'");
        }
        return Integer.parseInt(fields.get(2));
    }

    /** Becomes the user who ran sudo, if one did; returns the home directory of whom this process works for. */
    static Path dropToInvoker() throws IOException {
        var sudoUser = System.getenv("SUDO_USER");
        if (!isRoot() || sudoUser == null || sudoUser.equals("root")) {
            return Path.of(System.getProperty("user.home"));
        }
        var invoker = user(sudoUser);
        dropTo(invoker.uid, invoker.gid);
        return invoker.home;
    }

    /** If this process is root's own, becomes nobody, with the files that it has open. */
    static void dropToNobody() throws IOException {
        if (isRoot()) {
            var nobody = user("nobody");
            dropTo(nobody.uid, nobody.gid);
        }
    }

    private static void must(String function, FunctionDescriptor type, Object... arguments) {
        if ((int) call(function, type, arguments) != 0) {
            throw new IllegalStateException(function + " failed: root was not given up");
        }
    }

    private static Object call(String function, FunctionDescriptor type, Object... arguments) {
        MethodHandle handle = LINKER.downcallHandle(LINKER.defaultLookup().findOrThrow(function), type);
        try {
            return handle.invokeWithArguments(arguments);
        } catch (Throwable e) {
            throw new IllegalStateException(function, e);
        }
    }
}
