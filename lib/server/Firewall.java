import java.io.IOException;
import java.net.InetAddress;
import java.nio.ByteBuffer;
import java.util.ArrayDeque;
import java.util.Deque;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeUnit;

/** The daemon's end of the pipe to its firewall half. */
final class Firewall {
    private static final int EACCES = 13, ENOSPC = 28; // asm-generic/errno-base.h
    /** Within delay; a quarter of what the firewall half opens at all, so that others have room. */
    private static final int MOST_FOR_A_PROFILE = 250;

    private final Process process;
    private final long delay; // nanoseconds
    private final Ports ports;
    private final Map<Profile, Deque<Long>> ends = new HashMap<>(); // of openings
    private volatile boolean stopping;

    private Firewall(Process process, int delay, Ports ports) {
        this.process = process;
        this.delay = TimeUnit.SECONDS.toNanos(delay);
        this.ports = ports;
    }

    /**
     * Starts the firewall half, for the {@code ports} that profiles name, or for any as well;
     * returns when its log rule is there. If it ends, so does the daemon.
     */
    static Firewall start(ServerConfig config, Ports ports, boolean anyPort, String knockPorts)
            throws IOException {
        var list = ports.numbers().isEmpty() ? "1-65535" : ports + (anyPort ? ",1-65535" : "");
        var process = Privileges.startFirewall(List.of(), config.user(), config.group(),
                "" + config.delay(), list, knockPorts, config.knockNetwork().getHostAddress());
        var firewall = new Firewall(process, config.delay(), ports);
        Runtime.getRuntime().addShutdownHook(new Thread(firewall::stop));
        process.onExit().thenRun(() -> {
            if (!firewall.stopping) {
                Cli.complain("the firewall half has ended: restart the daemon");
                System.exit(1);
            }
        });
        return firewall;
    }

    /** Opens a port for the connections of one knock, and says what came of it. */
    void open(Profile profile, int port, InetAddress source, InetAddress destination)
            throws IOException {
        var what = " port " + ports.name(port) + " for " + source.getHostAddress() + ", profile "
                + profile.name();
        if (profile.openPorts().isEmpty() && ports.udp().get(port)) {
            System.out.println("refused, as only open_ports can name UDP's:" + what);
            return;
        }
        long now = System.nanoTime();
        var ends = this.ends.computeIfAbsent(profile, _ -> new ArrayDeque<>());
        ends.removeIf(end -> end - now <= 0);
        if (ends.size() + profile.connections() > MOST_FOR_A_PROFILE) {
            System.out.println("refused, as too many openings of this profile are not over:"
                    + what);
            return;
        }

        int opened = 0, error = 0;
        while (opened < profile.connections() && error == 0) {
            error = ask(source, destination, port);
            if (error == 0) {
                ends.add(now + delay);
                opened++;
            }
        }
        System.out.println((error == 0 ? "opened"
                : opened > 0 ? "opened, but only for " + opened + " of " + profile.connections()
                + " connections,"
                : error == EACCES ? "refused by the firewall half:"
                : error == ENOSPC ? "refused, as too many openings are not over:"
                : "not opened (" + Libc.errno(error) + "):") + what);
    }

    /** One record, and its answer: 0 if one more connection will be let in, or an errno. */
    private int ask(InetAddress source, InetAddress destination, int port) throws IOException {
        process.getOutputStream().write(ByteBuffer.allocate(34).put(mapped(source))
                .put(mapped(destination)).putShort((short) port).array());
        process.getOutputStream().flush();
        int answer = process.getInputStream().read();
        if (answer < 0) {
            throw new Failure("the firewall half has ended: restart the daemon");
        }
        return answer;
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
            process.getOutputStream().close();
            if (!process.waitFor(10, TimeUnit.SECONDS)) {
                Cli.complain("the firewall half did not end within ten seconds: killing it");
                process.destroyForcibly();
            }
        } catch (IOException | InterruptedException e) {
            Cli.complain("the firewall half did not end: " + e.getMessage());
        }
    }
}
