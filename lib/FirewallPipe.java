import java.io.File;
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
    // asm-generic/errno-base.h
    private static final int ENOMEM = 12, EACCES = 13, EEXIST = 17, ENOSPC = 28;
    private static final int MOST_WAITING = 1000;

    /** What a knock has opened, and for which profile. */
    record Opening(InetAddress source, InetAddress destination, int port, String profile) {
        /** Whether a connection that fits one fits the other. */
        private boolean isLike(Opening other) {
            return source.equals(other.source) && destination.equals(other.destination)
                    && port == other.port;
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
     * Starts the firewall half and returns when its log rule is there. If it ends, so does the
     * daemon.
     */
    static FirewallPipe start(ServerConfig config, String ports, String knockPorts)
            throws IOException {
        var half = startHalf(List.of(), config, ports, knockPorts);
        var pipe = new FirewallPipe(half, config.delay());
        Runtime.getRuntime().addShutdownHook(new Thread(pipe::stop));
        half.onExit().thenRun(() -> pipe.fail(
                "the firewall half has ended: start the daemon again"));
        Thread.ofPlatform().daemon().start(pipe::serveQueue);
        return pipe;
    }

    /**
     * The firewall half as a process, with {@code prefix} before its command: an unprivileged user
     * with CAP_NET_ADMIN and nothing else, in a session of its own, with an empty environment but
     * PATH. Its class path is a new directory with its one class, as JBang's cache may be out of
     * its reach; in /run, where nobody but root could make it again with other classes in it.
     */
    static Process startHalf(List<String> prefix, ServerConfig config, String ports,
            String knockPorts) throws IOException {
        var name = "KnockknockFirewall";
        var directory = Files.createTempDirectory(Path.of("/run"), "knockknock");
        var file = directory.resolve(name + ".class");
        try (var code = FirewallPipe.class.getResourceAsStream(name + ".class")) {
            Files.copy(code, file);
            Files.setPosixFilePermissions(file, PosixFilePermissions.fromString("rw-r--r--"));
            Files.setPosixFilePermissions(directory, PosixFilePermissions.fromString("rwxr-xr-x"));
            var java = System.getProperty("java.home") + "/bin/java";
            var command = new ArrayList<>(prefix);
            command.addAll(List.of("/usr/bin/setsid", "/usr/bin/setpriv",
                    "--reuid", "" + config.user(), "--regid", "" + config.group(), "--clear-groups",
                    "--bounding-set", "-all,+net_admin", "--inh-caps", "-all,+net_admin",
                    "--ambient-caps", "-all,+net_admin", "--no-new-privs", "--", java,
                    "-XX:+UseSerialGC", "-Xmx8m", "-Xmn1m", "-XX:TieredStopAtLevel=1",
                    "-XX:TrimNativeHeapInterval=60000", // needs little memory
                    "-XX:-UsePerfData", "-XX:+DisableAttachMechanism", // makes no file for others
                    "-XX:+ErrorFileToStderr", "-XX:-CreateCoredumpOnCrash",
                    "-XX:-DumpReplayDataOnError", // nor if it crashes
                    "-XX:+UnlockDiagnosticVMOptions", "-XX:AsyncDeflationInterval=0",
                    "-XX:ServiceThreadCleanupInterval=60000", // seldom wakes up
                    "-Xlog:disable", "-Xlog:all=warning:stderr", // stdout is for answers,
                    "-Xrs", // and not for the thread dump that SIGQUIT would ask for
                    "--enable-native-access=ALL-UNNAMED", "-cp", directory.toString(),
                    name, "" + config.delay(), ports, knockPorts));
            var builder = new ProcessBuilder(command).directory(new File("/"))
                    .redirectError(ProcessBuilder.Redirect.INHERIT);
            builder.environment().clear();
            builder.environment().put("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
            builder.environment().put("LC_ALL", "C.UTF-8");
            var half = builder.start();
            int status = half.getInputStream().read(); // by then it has loaded its class
            if (status < 0) {
                throw new Failure("the firewall half did not start: this takes CAP_NET_ADMIN and"
                        + " CAP_SETPCAP, and a JDK that the user " + config.userName() + " can run,"
                        + " such as one in /usr/lib/jvm");
            } else if (status > 0) {
                throw new Failure("the firewall half cannot work here (" + Sys.errno(status) + "): "
                        + (status == ENOMEM ? "the kernel's table of connections is full: see"
                        + " net.netfilter.nf_conntrack_count and nf_conntrack_max"
                        : "it takes CAP_NET_ADMIN, and a kernel with nf_conntrack_netlink and"
                        + " nf_conntrack_ftp"));
            }
            return half;
        } finally {
            Files.deleteIfExists(file);
            Files.delete(directory);
        }
    }

    /** Has a port opened, now or when the connection of the one before it has come, and says so. */
    synchronized void letIn(Opening opening) throws IOException {
        boolean first = true;
        for (var waiting : queue) {
            first &= !waiting.opening.isLike(opening);
        }
        if (first && request(opening)) {
            return;
        }
        if (queue.size() == MOST_WAITING) {
            say("refused, as " + MOST_WAITING + " knocks wait already:", opening);
            return;
        }
        say("queued behind an earlier knock:", opening);
        queue.add(new Waiting(opening, System.nanoTime() + TimeUnit.SECONDS.toNanos(delay)));
        notifyAll();
    }

    /** While knocks wait, asks again each millisecond for the first of those that are alike. */
    private synchronized void serveQueue() {
        try {
            for (;;) {
                wait(queue.isEmpty() ? 0 : 1);
                var asked = new ArrayList<Opening>();
                for (var waiting : List.copyOf(queue)) {
                    var opening = waiting.opening;
                    if (waiting.until - System.nanoTime() < 0) {
                        say("not opened, as it waited too long behind earlier knocks:", opening);
                        queue.remove(waiting);
                    } else if (asked.stream().noneMatch(opening::isLike)) {
                        asked.add(opening);
                        if (request(opening)) {
                            queue.remove(waiting);
                        }
                    }
                }
            }
        } catch (IOException | Failure | InterruptedException e) {
            fail(e.getMessage());
        }
    }

    /** Sends one record and says what came of it; false if an opening like it waits already. */
    private boolean request(Opening opening) throws IOException {
        half.getOutputStream().write(ByteBuffer.allocate(34).put(mapped(opening.source))
                .put(mapped(opening.destination)).putShort((short) opening.port).array());
        half.getOutputStream().flush();
        int answer = half.getInputStream().read();
        switch (answer) {
            case 0 -> say("opened", opening);
            case EACCES -> say("refused by the firewall half:", opening);
            case ENOSPC -> say("refused, as too many openings wait already:", opening);
            case EEXIST -> { } // an opening like it waits already
            case -1 -> throw new Failure("the firewall half has ended: start the daemon again");
            default -> say("not opened (" + Sys.errno(answer) + "):", opening);
        }
        return answer != EEXIST;
    }

    private static void say(String what, Opening opening) {
        System.out.println(what + " port " + opening.port + " for "
                + opening.source.getHostAddress() + ", profile " + opening.profile);
    }

    /** 16 bytes, IPv4 as ::ffff:a.b.c.d (RFC 4291). */
    private static byte[] mapped(InetAddress address) {
        var bytes = address.getAddress();
        return bytes.length == 16 ? bytes
                : ByteBuffer.allocate(16).putShort(10, (short) -1).put(12, bytes).array();
    }

    private void fail(String why) {
        if (!stopping) {
            Cli.complain(why);
            System.exit(1);
        }
    }

    private void stop() {
        stopping = true;
        try {
            half.getOutputStream().close();
            if (!half.waitFor(10, TimeUnit.SECONDS)) {
                Cli.complain("the firewall half did not end within ten seconds: killing it");
                half.destroyForcibly();
            }
        } catch (IOException | InterruptedException e) {
            Cli.complain("the firewall half did not end: " + e.getMessage());
        }
    }
}
