import java.io.File;
import java.io.IOException;
import java.net.InetAddress;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.attribute.PosixFilePermissions;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Deque;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeUnit;

/** The daemon's end of the pipe to its firewall half. */
final class FirewallPipe {
    private static final int ENOMEM = 12, EACCES = 13, ENOSPC = 28; // asm-generic/errno-base.h
    /** Within delay; a quarter of what the firewall half opens at all, so that others have room. */
    private static final int MOST_FOR_A_PROFILE = 250;

    /** What a knock has opened, and for which profile. */
    record Opening(InetAddress source, InetAddress destination, int port, String profile) {}

    private final Process half;
    private final long delayNanos;
    private final Ports ports;
    private final Map<String, Deque<Long>> ends = new HashMap<>(); // of openings, by profile
    private volatile boolean stopping;

    private FirewallPipe(Process half, int delay, Ports ports) {
        this.half = half;
        this.delayNanos = TimeUnit.SECONDS.toNanos(delay);
        this.ports = ports;
    }

    /**
     * Starts the firewall half and returns when its log rule is there. If it ends, so does the
     * daemon.
     */
    static FirewallPipe start(ServerConfig config, Ports ports, boolean anyPort, String knockPorts)
            throws IOException {
        var list = ports.numbers().isEmpty() ? "1-65535" : ports + (anyPort ? ",1-65535" : "");
        var half = startHalf(List.of(), config, list, knockPorts);
        var pipe = new FirewallPipe(half, config.delay(), ports);
        Runtime.getRuntime().addShutdownHook(new Thread(pipe::stop));
        half.onExit().thenRun(() -> {
            if (!pipe.stopping) {
                Cli.complain("the firewall half has ended: start the daemon again");
                System.exit(1);
            }
        });
        return pipe;
    }

    /**
     * The firewall half as a process, with {@code prefix} before its command: an unprivileged user
     * with CAP_NET_ADMIN and nothing else, in a session of its own, with an empty environment but
     * PATH. Its class path is a copy of the daemon's own jar, as JBang's cache may be out of its
     * reach; in /run, where nobody but root could make the file again once it is deleted.
     */
    static Process startHalf(List<String> prefix, ServerConfig config, String ports,
            String knockPorts) throws IOException {
        var jar = Path.of(System.getProperty("java.class.path").split(":")[0]);
        var directory = Files.createTempDirectory(Path.of("/run"), "knockknock");
        var file = directory.resolve("knockknock.jar");
        try {
            Files.copy(jar, file);
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
                    "-XX:+ExitOnOutOfMemoryError", // rather than go on in part
                    "-XX:+UnlockDiagnosticVMOptions", "-XX:AsyncDeflationInterval=0",
                    "-XX:ServiceThreadCleanupInterval=60000", // seldom wakes up
                    "-Xlog:disable", "-Xlog:all=warning:stderr", // stdout is for answers, and not
                    "-XX:+DisplayVMOutputToStderr", // for the thread dump that SIGQUIT asks for
                    "--enable-native-access=ALL-UNNAMED", "-cp", file.toString(),
                    "KnockknockFirewall", "" + config.delay(), ports, knockPorts,
                    config.knockNetwork().getHostAddress()));
            var builder = new ProcessBuilder(command).directory(new File("/"))
                    .redirectError(ProcessBuilder.Redirect.INHERIT);
            builder.environment().clear();
            builder.environment().put("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
            builder.environment().put("LC_ALL", "C.UTF-8");
            var half = builder.start();
            int status = half.getInputStream().read(); // by then it has its jar open
            if (status < 0) {
                throw new Failure("the firewall half did not start: this takes CAP_NET_ADMIN and"
                        + " CAP_SETPCAP, and a JDK that the user " + config.userName() + " can run,"
                        + " such as one in /usr/lib/jvm");
            } else if (status > 0) {
                throw new Failure("the firewall half cannot work here (" + Sys.errno(status) + "): "
                        + (status == ENOMEM ? "the kernel's table of connections is full: see"
                        + " net.netfilter.nf_conntrack_count and nf_conntrack_max"
                        : "it takes nftables, and a kernel with nf_tables, nf_conntrack_netlink and"
                        + " nf_conntrack_ftp"));
            }
            return half;
        } finally {
            Files.deleteIfExists(file);
            Files.delete(directory);
        }
    }

    /** Has the connections of one knock let in, and says what came of it. */
    void letIn(Opening opening, ProfileConfig profile) throws IOException {
        int connections = profile.connections();
        if (profile.openPorts().isEmpty() && ports.udp().get(opening.port)) {
            say("refused, as only open_ports can name UDP's:", opening);
            return;
        }
        long now = System.nanoTime();
        var ends = this.ends.computeIfAbsent(opening.profile, _ -> new ArrayDeque<>());
        ends.removeIf(end -> end - now <= 0);
        if (ends.size() + connections > MOST_FOR_A_PROFILE) {
            say("refused, as too many openings of this profile are not over:", opening);
            return;
        }
        var record = ByteBuffer.allocate(34).put(mapped(opening.source))
                .put(mapped(opening.destination)).putShort((short) opening.port).array();
        for (int i = 0; i < connections; i++) {
            half.getOutputStream().write(record);
        }
        half.getOutputStream().flush();
        int error = 0, opened = 0;
        for (int i = 0; i < connections; i++) {
            int answer = half.getInputStream().read();
            if (answer == 0) {
                ends.add(now + delayNanos);
                opened++;
            } else if (error == 0) {
                error = answer;
            }
        }
        if (opened > 0 && error > 0) {
            say("opened, but only for " + opened + " of " + connections + " connections,",
                    opening);
            return;
        }
        switch (error) {
            case 0 -> say("opened", opening);
            case EACCES -> say("refused by the firewall half:", opening);
            case ENOSPC -> say("refused, as too many openings are not over:", opening);
            case -1 -> throw new Failure("the firewall half has ended: start the daemon again");
            default -> say("not opened (" + Sys.errno(error) + "):", opening);
        }
    }

    private void say(String what, Opening opening) {
        System.out.println(what + " port " + ports.name(opening.port) + " for "
                + opening.source.getHostAddress() + ", profile " + opening.profile);
    }

    /** 16 bytes, IPv4 as ::ffff:a.b.c.d (RFC 4291). */
    private static byte[] mapped(InetAddress address) {
        var bytes = address.getAddress();
        return bytes.length == 16 ? bytes
                : ByteBuffer.allocate(16).putShort(10, (short) -1).put(12, bytes).array();
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
