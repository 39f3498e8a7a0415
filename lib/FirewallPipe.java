import java.io.IOException;
import java.net.InetAddress;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.attribute.PosixFilePermissions;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.TimeUnit;

/**
 * The daemon's end of the pipe to its firewall half, and the knocks that wait for their turn: the
 * kernel expects one connection at a time from a source to a port, so a second knock waits until
 * the first one's connection has come.
 */
final class FirewallPipe {
    private static final int EACCES = 13, EEXIST = 17; // asm-generic/errno-base.h
    private static final int MOST_WAITING = 1000;

    /** What a knock has the firewall half open, and for which profile. */
    record Opening(InetAddress source, InetAddress destination, int port, String profile) {
        /** Whether the same connection could use either. */
        private boolean isAsGoodAs(Opening other) {
            return source.equals(other.source) && destination.equals(other.destination) && port == other.port;
        }
    }

    private record Waiting(Opening opening, long until) {}

    private final Process half;
    private final int delay; // seconds
    private final List<Waiting> queue = new ArrayList<>();
    private volatile boolean stopping;

    private FirewallPipe(Process half, int delay) {
        this.half = half;
        this.delay = delay;
    }

    /**
     * Starts the firewall half as {@code user} with CAP_NET_ADMIN and nothing more; returns when it
     * has made its log rule.
     */
    static FirewallPipe start(ServerConfig config, String ports, String knockPorts) throws IOException {
        var pipe = new FirewallPipe(start(List.of(), config, ports, knockPorts), config.delay());
        Runtime.getRuntime().addShutdownHook(new Thread(pipe::stop));
        pipe.half.onExit().thenRun(() -> {
            if (!pipe.stopping) {
                Cli.complain("the firewall half has ended: start the daemon again");
                System.exit(1);
            }
        });
        Thread.ofPlatform().daemon().start(pipe::serveQueue);
        return pipe;
    }

    /**
     * The same as a mere process, after {@code prefix}; it is given a directory with nothing but
     * its own class.
     */
    static Process start(List<String> prefix, ServerConfig config, String ports, String knockPorts) throws IOException {
        var name = "KnockknockFirewall";
        var dir = Files.createTempDirectory("knockknock"); // JBang's cache may be out of the user's reach
        var file = dir.resolve(name + ".class");
        try (var code = FirewallPipe.class.getResourceAsStream(name + ".class")) {
            Files.setPosixFilePermissions(dir, PosixFilePermissions.fromString("rwxr-xr-x"));
            Files.copy(code, file);
            Files.setPosixFilePermissions(file, PosixFilePermissions.fromString("rw-r--r--"));
            var command = new ArrayList<>(prefix);
            command.addAll(List.of("/usr/bin/setsid", "/usr/bin/setpriv", "--reuid", "" + config.user(), "--regid", "" + config.group(),
                    "--clear-groups", "--bounding-set", "-all,+net_admin", "--inh-caps", "-all,+net_admin",
                    "--ambient-caps", "-all,+net_admin", "--no-new-privs", "--",
                    System.getProperty("java.home") + "/bin/java", "-Xint", "-Xmx8m", "-XX:+UseSerialGC", // small
                    "-XX:-UsePerfData", "-XX:+DisableAttachMechanism", // no file, no socket
                    "-XX:+ErrorFileToStderr", "-XX:-CreateCoredumpOnCrash", "-Xlog:disable", "-Xlog:all=warning:stderr",
                    "--enable-native-access=ALL-UNNAMED", "-cp", dir.toString(), name, "" + config.delay(), ports, knockPorts));
            var builder = new ProcessBuilder(command).directory(Path.of("/").toFile()).redirectError(ProcessBuilder.Redirect.INHERIT);
            builder.environment().clear();
            builder.environment().put("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
            var half = builder.start();
            int status = half.getInputStream().read(); // after this it loads no more classes of its own
            if (status != 0) {
                throw new Failure(status < 0 ? "the firewall half did not start: see above, and may the user " + config.userName()
                        + " run " + System.getProperty("java.home") + "? (a server needs a JDK for all users, as in /usr/lib/jvm)"
                        : "the firewall half cannot work here (errno " + status + "): this needs a kernel with nf_tables,"
                        + " nf_conntrack_netlink and nf_conntrack_ftp, and CAP_NET_ADMIN in this network namespace");
            }
            return half;
        } finally {
            Files.deleteIfExists(file);
            Files.delete(dir);
        }
    }

    /**
     * Has the port opened, now or when the openings before it are used, and says what came of it.
     */
    synchronized void open(Opening opening) throws IOException {
        if (queue.stream().noneMatch(waiting -> waiting.opening.isAsGoodAs(opening)) && request(opening)) {
            return;
        }
        if (queue.size() == MOST_WAITING) {
            System.out.println("refused: " + MOST_WAITING + " knocks wait already: " + describe(opening));
            return;
        }
        System.out.println("knock for " + describe(opening) + ": waits for the connection of the one before it");
        queue.add(new Waiting(opening, System.nanoTime() + TimeUnit.SECONDS.toNanos(delay)));
        notifyAll();
    }

    /**
     * While knocks wait, asks again every millisecond, for one of those that are alike. Ends with
     * the pipe.
     */
    private synchronized void serveQueue() {
        try {
            for (;;) {
                var asked = new ArrayList<Opening>();
                for (var waiting = queue.iterator(); waiting.hasNext(); ) {
                    var next = waiting.next();
                    if (next.until - System.nanoTime() < 0) {
                        System.out.println("not opened, as no connection came for the one before it: " + describe(next.opening));
                        waiting.remove();
                    } else if (asked.stream().noneMatch(next.opening::isAsGoodAs)) {
                        asked.add(next.opening);
                        if (request(next.opening)) {
                            waiting.remove();
                        }
                    }
                }
                wait(queue.isEmpty() ? 0 : 1);
            }
        } catch (IOException | Failure | InterruptedException e) {
            if (!stopping) {
                Cli.complain(e.getMessage());
                System.exit(1);
            }
        }
    }

    /**
     * Sends one record; true if the port is open (or never will be), false if another opening is
     * waiting.
     */
    private boolean request(Opening opening) throws IOException {
        var record = ByteBuffer.allocate(34).put(mapped(opening.source)).put(mapped(opening.destination)).putShort((short) opening.port);
        half.getOutputStream().write(record.array());
        half.getOutputStream().flush();
        int answer = half.getInputStream().read();
        var what = describe(opening);
        switch (answer) {
            case 0 -> System.out.println("opened " + what);
            case EEXIST -> {
                return false;
            }
            case EACCES -> System.out.println("refused by the firewall half: " + what);
            default -> throw new Failure("cannot open " + what + " (errno " + answer + "), so this ends");
        }
        return true;
    }

    private static String describe(Opening opening) {
        return "port " + opening.port + " for " + opening.source.getHostAddress() + ", profile " + opening.profile;
    }

    /** 16 bytes, IPv4 as ::ffff:a.b.c.d (RFC 4291). */
    private static byte[] mapped(InetAddress address) {
        var bytes = address.getAddress();
        return bytes.length == 16 ? bytes : ByteBuffer.allocate(16).putShort(10, (short) -1).put(12, bytes).array();
    }

    private void stop() {
        stopping = true;
        try {
            half.getOutputStream().close();
            half.waitFor();
        } catch (IOException | InterruptedException e) {
            Cli.complain("the firewall half did not end: " + e.getMessage());
        }
    }
}
