///usr/bin/env jbang "$0" "$@" ; exit $?
//JAVA 25+
//MAIN KnockknockDaemon
//SOURCES knockknock-firewall.java
//SOURCES lib/Cli.java
//SOURCES lib/Config.java
//SOURCES lib/Counter.java
//SOURCES lib/Failure.java
//SOURCES lib/FirewallPipe.java
//SOURCES lib/KernelLog.java
//SOURCES lib/KnockCodec.java
//SOURCES lib/KnockWindow.java
//SOURCES lib/Libc.java
//SOURCES lib/LogLine.java
//SOURCES lib/Ports.java
//SOURCES lib/Privileges.java
//SOURCES lib/Profile.java
//SOURCES lib/ProfileConfig.java
//SOURCES lib/ServerCheck.java
//SOURCES lib/ServerConfig.java
//SOURCES lib/Sudo.java
//SOURCES lib/Sys.java
//JAVAC_OPTIONS -XDstringConcat=inline
//RUNTIME_OPTIONS --enable-native-access=ALL-UNNAMED -XX:+UseSerialGC -Xmx48m -Xmn2m -XX:-UsePerfData -XX:+DisableAttachMechanism -XX:+ErrorFileToStderr -XX:-CreateCoredumpOnCrash -XX:-DumpReplayDataOnError -XX:+UnlockDiagnosticVMOptions -XX:AsyncDeflationInterval=0 -XX:ServiceThreadCleanupInterval=60000 -XX:TrimNativeHeapInterval=60000 -Djdk.lang.Process.launchMechanism=FORK

import java.io.IOException;
import java.net.InetAddress;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.BitSet;
import java.util.HashMap;
import java.util.HashSet;
import java.util.Map;
import java.util.Optional;
import java.util.OptionalLong;
import java.util.Set;
import java.util.concurrent.Callable;
import java.util.stream.Collectors;

import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Model.OptionSpec;

/**
 * The server: finds knocks in the kernel's log, verifies them, stores the counter, and has its
 * firewall half let one connection in. Binds no socket and sends nothing. As root it reads its
 * configuration and profiles, opens their counters and the log, and starts the firewall half; then
 * it drops to an unprivileged user for good, and only then reads the log.
 */
final class KnockknockDaemon implements Callable<Integer> {
    private static final long QUIET_NANOS = 10_000_000_000L; // between complaints about a profile
    private static final int MOST_SOURCES = 1000; // that are told apart in a complaint

    private final CommandSpec command = Cli.command("knockknock-daemon", this,
            "Watch the kernel's log for knocks, and let in anyone who holds the keys.", """
            Runs in the foreground and prints a line for each event. knockknock-genprofile
            makes profiles; start the daemon again after that.
            """, "0:--check found no problem",
            "1:it could not start, or its firewall half or the log ended", "2:bad usage")
            .addOption(OptionSpec.builder("--dir").paramLabel("DIR").type(Path.class)
                    .defaultValue("/etc/knockknock.d").description("the server's directory: config"
                    + " and profiles (default: ${DEFAULT-VALUE})").build())
            .addOption(OptionSpec.builder("--log").paramLabel("FILE").type(Path.class)
                    .description("follow this file instead of /dev/kmsg").build())
            .addOption(Cli.flag("--check", "say what is missing or wrong on this host, change"
                    + " nothing, and end"));

    /** A profile, what it takes next, and what has not been said of its refusals. */
    private static final class Receiver {
        private final Profile profile;
        private final KnockWindow window;
        private long quietUntil = System.nanoTime();
        private int unsaid;
        private final Set<InetAddress> unsaidSources = new HashSet<>();

        private Receiver(Profile profile, ServerConfig config, int profiles) throws IOException {
            if (!profile.counter().tryLockForGood()) {
                throw new Failure("another knockknock-daemon uses " + profile.directory()
                        + ": stop that one first");
            }
            this.profile = profile;
            var ports = profile.config().openPorts();
            int size = KnockWindow.size(config.errorWindow(), ports.isPresent(), profiles);
            boolean boundOnly = profile.config().source().equals("bound");
            long next = profile.counter().read(); // nobody else writes it from now on
            window = new KnockWindow(profile.codec(), new KnockWindow.Terms(size,
                    ports.map(Ports::numbers), boundOnly), next);
            // Use both once: a disk that fails is seen now, and the first knock is no slower.
            profile.counter().store(next);
            window.open(new KnockCodec.Fields(0, 0, 0, 0, OptionalLong.empty(), false),
                    new byte[4]);
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
                    + (profile.config().openPorts().isEmpty() ? help : ""));
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
    private FirewallPipe firewall;
    private Optional<LogLine.Syn> lastAccepted = Optional.empty();

    @Override
    public Integer call() throws IOException, InterruptedException {
        if (Sys.uid() != 0) {
            throw Sudo.asRoot("starting the daemon");
        }
        Privileges.closeInherited();
        Privileges.leaveTerminal();
        Path dir = command.findOption("--dir").getValue();
        var profiles = dir.resolve("profiles");
        Optional<Path> otherLog = Optional.ofNullable(command.findOption("--log").getValue());
        config = ServerConfig.read(dir, otherLog);
        if (command.commandLine().getParseResult().hasMatchedOption("--check")) {
            return new ServerCheck().run(profiles, config) ? 0 : 1;
        }
        loadProfiles(profiles);
        try (var log = KernelLog.open(config.log())) {
            firewall = FirewallPipe.start(config, ports, anyPort, numbers(knockPorts));
            Privileges.dropTo(config.user(), config.group(), config.logGroups());
            if (!config.log().equals(KernelLog.KMSG) && !Files.isReadable(config.log())) {
                throw new Failure("the user " + config.userName() + " may not read " + config.log()
                        + ": in " + dir + "/config, set group to one that may");
            }
            log.start();
            testReading();
            var ports = knockPorts.cardinality() <= 10 ? "ports " + numbers(knockPorts)
                    : "ports of " + knockPorts.cardinality() + " profiles";
            var network = config.knockAddress().isEmpty() ? ""
                    : " and addresses " + config.knockNetwork().getHostAddress() + "/64";
            System.out.println("ready: knock " + ports + network + ", log " + config.log()
                    + ", user " + config.userName());
            log.follow(this::receive);
        }
        throw new Failure("cannot read on in " + config.log() + ": start the daemon again");
    }

    /** A self-test; by then the JVM has loaded what reads a knock, and the first is no slower. */
    private static void testReading() {
        var line = LogLine.EXAMPLE;
        var ports = new BitSet();
        ports.set(0, 65536);
        var syn = LogLine.parse(line, 0, line.length, ports);
        if (syn.isEmpty() || !syn.equals(LogLine.parse(line, 0, line.length, ports))) {
            throw new IllegalStateException("cannot read its example of a line");
        }
    }

    private void loadProfiles(Path directory) throws IOException {
        // All are opened first, as Counter then looks for their descriptors once.
        var profiles = new ArrayList<Profile>();
        for (var path : ProfileConfig.knockPorts(directory).values()) {
            var profile = Profile.load(path);
            profiles.add(profile);
            profile.config().openPorts().ifPresentOrElse(ports::add, () -> anyPort = true);
        }
        for (var profile : profiles) {
            int knockPort = profile.config().knockPort();
            receivers.put(knockPort, new Receiver(profile, config, profiles.size()));
            knockPorts.set(knockPort);
        }
        if (receivers.isEmpty()) {
            throw new Failure("there is no profile in " + directory + ": make one with"
                    + " knockknock-genprofile");
        }
    }

    private static String numbers(BitSet ports) {
        return ports.stream().mapToObj(String::valueOf).collect(Collectors.joining(","));
    }

    /** Takes one line of the log; the steps are those of PROTOCOL.md 6.2. */
    private void receive(byte[] text, int from, int to) throws IOException {
        // 1, 2. Refuse all but a SYN to a knock port.
        var found = LogLine.parse(text, from, to, knockPorts);
        // 3. Pass over a second copy of the last accepted line.
        if (found.isEmpty() || found.equals(lastAccepted)) {
            return;
        }
        // 4. Open it with the first counter that fits.
        var syn = found.get();
        var receiver = receivers.get(syn.knockPort());
        var profile = receiver.profile;
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
            profile.counter().store(next);
        } catch (IOException e) {
            Cli.complain("refused to open port " + port + " for " + syn.source().getHostAddress()
                    + ", as the counter cannot be stored: " + Cli.reason(e));
            return;
        }
        lastAccepted = found;
        // 6. Let one connection in, or as many as the profile says.
        var destination = isAddress ? config.knockAddress().get() : syn.destination();
        firewall.letIn(new FirewallPipe.Opening(syn.source(), destination, port,
                profile.name()), profile.config());
        receiver.window.moveTo(next);
    }

    static void main(String[] args) {
        Cli.run(new KnockknockDaemon().command, args);
    }
}
