///usr/bin/env jbang "$0" "$@" ; exit $?
//JAVA 25+
//MAIN KnockknockDaemon
//SOURCES knockknock-firewall.java
//SOURCES lib/Addresses.java
//SOURCES lib/Carrier.java
//SOURCES lib/Cli.java
//SOURCES lib/Config.java
//SOURCES lib/Counter.java
//SOURCES lib/Failure.java
//SOURCES lib/KnockCodec.java
//SOURCES lib/Libc.java
//SOURCES lib/Ports.java
//SOURCES lib/Profile.java
//SOURCES lib/server/Firewall.java
//SOURCES lib/server/KernelLog.java
//SOURCES lib/server/KnockWindow.java
//SOURCES lib/server/LogLine.java
//SOURCES lib/server/Privileges.java
//SOURCES lib/server/ServerConfig.java
// A bound for its memory, of which new objects take 2 MB, not a third; and what the compilers have
// used goes back to the kernel once a minute.
//RUNTIME_OPTIONS -Xmx48m -Xmn2m -XX:TrimNativeHeapInterval=60000

import java.io.IOException;
import java.net.InetAddress;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.BitSet;
import java.util.HashMap;
import java.util.HashSet;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.concurrent.Callable;
import java.util.stream.Collectors;

import picocli.CommandLine.Model.CommandSpec;

/**
 * The server: finds knocks in the kernel's log, verifies them, stores the counter, and has its
 * firewall half let one connection in. Binds no socket and sends nothing. As root it reads its
 * configuration and profiles, opens their counters and the log, and starts the firewall half; then
 * it drops to an unprivileged user for good, and only then reads the log.
 */
final class KnockknockDaemon implements Callable<Integer> {
    private static final Path SERVER = Path.of("/etc/knockknock.d");
    private static final long QUIET_NANOS = 10_000_000_000L; // between complaints about a profile
    private static final int MOST_SOURCES = 1000; // that are told apart in a complaint

    private final CommandSpec command = Cli.command("knockknock-daemon", this,
            "Watch the kernel's log for knocks, and let in anyone who holds the keys.", """
            Runs in the foreground and prints a line for each event. knockknock-genprofile
            makes profiles; restart the daemon after that. knockknock-check says what is
            missing or wrong on this host.
            """, "1:it could not start, or its firewall half or the log ended", "2:bad usage")
            .addOption(Cli.option("--dir", "DIR", Cli::file, "the server's directory: config and"
                    + " profiles (default: " + SERVER + ")"))
            .addOption(Cli.option("--log", "FILE", Cli::file, "follow this file instead of"
                    + " /dev/kmsg"));

    /** A profile, what it takes next, and what has not been said of its refusals. */
    private static final class Receiver {
        private final Profile profile;
        private final Counter counter;
        private final KnockWindow window;
        private long quietUntil = System.nanoTime();
        private int unsaid;
        private final Set<InetAddress> unsaidSources = new HashSet<>();

        private Receiver(Profile profile, Counter counter, ServerConfig config, int profiles)
                throws IOException {
            if (!counter.tryLockForGood()) {
                throw new Failure("another knockknock-daemon uses " + profile.directory()
                        + ": stop that one first");
            }
            this.profile = profile;
            this.counter = counter;
            long next = counter.read(); // nobody else writes it from now on
            counter.store(next); // a disk that fails is seen now

            var codec = new KnockCodec(profile.key("cipher.key"), profile.key("mac.key"));
            var ports = profile.openPorts().map(Ports::numbers);
            int size = KnockWindow.size(config.errorWindow(), ports.isPresent(), profiles);
            boolean boundOnly = profile.source() == Profile.Source.Rule.BOUND;
            window = new KnockWindow(codec, new KnockWindow.Terms(size, ports, boundOnly), next);
        }

        /** Says why a knock was refused; once in ten seconds, then with how many were since. */
        private void refuse(InetAddress source, String help) {
            if (System.nanoTime() - quietUntil < 0) {
                unsaid++;
                if (unsaidSources.size() < MOST_SOURCES) {
                    unsaidSources.add(source);
                }
                return;
            }
            var more = unsaid == 0 ? "" : " (and " + unsaid + " more from " + unsaidSources.size()
                    + (unsaidSources.size() < MOST_SOURCES ? "" : " or more") + " addresses)";
            System.out.println("knock for profile " + profile.name() + " from "
                    + source.getHostAddress() + more + " refused: not authentic, counter used or"
                    + " more than " + window.size() + " ahead, port not in open_ports, or bound to"
                    + " another address (or to none)"
                    + (profile.openPorts().isEmpty() ? help : ""));
            quietUntil = System.nanoTime() + QUIET_NANOS;
            unsaid = 0;
            unsaidSources.clear();
        }
    }

    private ServerConfig config;
    private final BitSet knockPorts = new BitSet();
    private final Map<Integer, Receiver> receivers = new HashMap<>(); // by knock port
    private final Ports ports = Ports.none(); // that some profile names in its open_ports
    private boolean anyPort; // as some profile names none
    private Firewall firewall;
    private Optional<LogLine.Syn> lastAccepted = Optional.empty();

    @Override
    public Integer call() throws IOException {
        Privileges.needRoot();
        Privileges.leaveTerminal();
        var given = command.commandLine().getParseResult();
        var dir = given.matchedOptionValue("--dir", SERVER);
        config = ServerConfig.read(dir,
                Optional.ofNullable(given.matchedOptionValue("--log", null)));
        var log = config.log();
        var kmsg = log.equals(KernelLog.KMSG) ? Optional.of(KernelLog.openKmsg())
                : Optional.<KernelLog>empty();
        loadProfiles(dir.resolve("profiles"));
        firewall = Firewall.start(config, ports, anyPort, numbers(knockPorts));

        Privileges.dropTo(config.user(), config.group(), config.logGroups());
        if (kmsg.isEmpty() && !Files.isReadable(log)) {
            throw new Failure("the user " + config.userName() + " may not read " + log + ": in "
                    + dir + "/config, set group to one that may");
        }
        var lines = kmsg.isPresent() ? kmsg.get() : KernelLog.follow(log);
        var knock = knockPorts.cardinality() <= 10 ? "ports " + numbers(knockPorts)
                : "ports of " + knockPorts.cardinality() + " profiles";
        var network = config.knockAddress().isEmpty() ? ""
                : " and addresses " + config.knockNetwork().getHostAddress() + "/64";
        System.out.println("ready: knock " + knock + network + ", log " + log + ", user "
                + config.userName());
        lines.read(this::receive);
        throw new Failure("the log " + log + " has ended: restart the daemon");
    }

    private void loadProfiles(Path directory) throws IOException {
        var profiles = Profile.byKnockPort(directory);
        if (profiles.isEmpty()) {
            throw new Failure("there is no profile in " + directory + ": make one with"
                    + " knockknock-genprofile");
        }

        // All counters are opened first, as Counter then looks for their descriptors once; and
        // nothing is written before all profiles are known to be sound together.
        var counters = new HashMap<Profile, Counter>();
        for (var profile : profiles.values()) {
            counters.put(profile, profile.openCounter());
            profile.openPorts().ifPresentOrElse(ports::add, () -> anyPort = true);
        }
        for (var profile : profiles.values()) {
            receivers.put(profile.knockPort(), new Receiver(profile, counters.get(profile), config,
                    profiles.size()));
            knockPorts.set(profile.knockPort());
        }
    }

    private static String numbers(BitSet ports) {
        return ports.stream().mapToObj(String::valueOf).collect(Collectors.joining(","));
    }

    /** Takes one line of the log; the steps are those of PROTOCOL.md 6.2. */
    private void receive(byte[] text, int from, int to) throws IOException {
        // 1, 2. Refuse all but a SYN to a knock port.
        var found = LogLine.parse(text, from, to, knockPorts);
        if (found.isEmpty()) {
            return;
        }
        // 3. Pass over a second copy of the last accepted line.
        if (found.equals(lastAccepted)) {
            return;
        }

        // 4. Open it with the first counter that fits.
        var syn = found.get();
        var receiver = receivers.get(syn.knockPort());
        var source = syn.source().getAddress();
        boolean isAddress = config.carriesKnocks(syn.destination());
        var request = isAddress ? receiver.window.open(syn.destination().getAddress(), source)
                : receiver.window.open(syn.fields(), source);
        if (request.isEmpty()) {
            receiver.refuse(syn.source(), isAddress
                    ? "; knocks in an address open only if the profile has open_ports"
                    : syn.fields().translated() ? "; a translator (NAT64) on its way has replaced"
                    + " what carries the port: such knocks open only if the profile has open_ports"
                    : "");
            return;
        }

        // 5. Store the counter before the port opens.
        int port = request.get().port();
        long next = request.get().counter() + 1;
        try {
            receiver.counter.store(next);
        } catch (IOException e) {
            Cli.complain("refused to open port " + port + " for " + syn.source().getHostAddress()
                    + ", as the counter cannot be stored: " + Cli.reason(e));
            return;
        }
        lastAccepted = found;

        // 6. Let one connection in, or as many as the profile says.
        firewall.open(receiver.profile, port, syn.source(),
                isAddress ? config.knockAddress().get() : syn.destination());
        receiver.window.moveTo(next);
    }

    static void main(String[] args) {
        Cli.run(new KnockknockDaemon().command, args);
    }
}
