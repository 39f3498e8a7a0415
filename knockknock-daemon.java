///usr/bin/env jbang "$0" "$@" ; exit $?
//JAVA 25+
//MAIN KnockknockDaemon
//SOURCES knockknock-firewall.java
//SOURCES lib/Cli.java
//SOURCES lib/Counter.java
//SOURCES lib/KernelLog.java
//SOURCES lib/KnockCodec.java
//SOURCES lib/Profile.java
//SOURCES lib/ServerCheck.java
//SOURCES lib/Sys.java
//RUNTIME_OPTIONS --enable-native-access=ALL-UNNAMED -XX:+UseSerialGC -Xmx24m -Xmn2m -XX:-UsePerfData -XX:+DisableAttachMechanism -XX:+UnlockDiagnosticVMOptions -XX:AsyncDeflationInterval=0 -Djdk.lang.Process.launchMechanism=FORK

import java.io.BufferedReader;
import java.io.File;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.attribute.PosixFilePermission;
import java.util.BitSet;
import java.util.HashMap;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.concurrent.Callable;
import java.util.stream.Collectors;
import java.util.stream.Stream;

import picocli.CommandLine.Command;
import picocli.CommandLine.Option;

/**
 * The server: finds knocks in the kernel's firewall log, verifies them, stores the counter, and asks its root half to let
 * one connection in. Binds no socket and sends nothing. As root it reads its configuration and profiles, opens their
 * counters and starts KnockknockFirewall; then it drops to an unprivileged user for good, and only then reads the log.
 */
@Command(name = "knockknock-daemon", mixinStandardHelpOptions = true, versionProvider = Cli.Version.class, sortOptions = false,
        description = "Watch the kernel's firewall log for knocks, and open ports for who knows the keys.%n",
        footer = {"", "Runs in the foreground and prints a line for each event. Profiles are made by knockknock-genprofile;"
            + " start again after making one.", ""},
        exitCodeListHeading = "Exit codes:%n",
        exitCodeList = {"0:--check found no problem", "1:it could not start, or its root half or the log ended: start it again",
            "2:bad usage"})
final class KnockknockDaemon implements Callable<Integer> {
    private static final Path KERN_LOG = Path.of("/var/log/kern.log");
    private static final long QUIET_NANOS = 10_000_000_000L; // after a complaint about a profile, until the next

    @Option(names = "--dir", paramLabel = "DIR", defaultValue = "/etc/knockknock.d",
            description = "the server's directory: config and profiles (default: ${DEFAULT-VALUE})")
    private Path dir;

    @Option(names = "--log", paramLabel = "FILE",
            description = "the log to follow (default: /var/log/kern.log if it exists, else /dev/kmsg)")
    private Path logOption;

    @Option(names = "--check", description = "say what is missing or wrong on this host, change nothing, and end:"
            + " 1 if there is a problem")
    private boolean check;

    /** The file {@code config}: seconds that a port stays open, counters tried, and as whom the log is read. */
    private record Settings(String delay, int window, Path log, Sys.User user, int group) {}

    /** A profile, and how far it has got. */
    private static final class Door {
        private final Profile profile;
        private long next;
        private long quietUntil = System.nanoTime();

        private Door(Profile profile) throws IOException {
            if (!profile.counter().keep()) {
                throw new Cli.Failure("another knockknock-daemon uses " + profile.dir() + ": stop that one first");
            }
            this.profile = profile;
            this.next = profile.counter().read(); // nobody else writes it from now on
        }
    }

    private final BitSet knockPorts = new BitSet();
    private final Map<Integer, Door> doors = new HashMap<>(); // by knock port
    private Settings settings;
    private Process rootHalf;
    private BufferedReader answers;
    private volatile boolean stopping;
    private Optional<KnockCodec.Syn> lastAccepted = Optional.empty();

    @Override
    public Integer call() throws IOException, InterruptedException {
        if (!Sys.isRoot()) {
            throw Sys.execSudo("changing the firewall");
        }
        settings = settings();
        if (check) {
            return new ServerCheck().run(dir, settings.log) ? 0 : 1;
        }
        loadProfiles();
        startRootHalf();
        try (var log = KernelLog.open(settings.log)) {
            Sys.dropTo(settings.user.uid(), settings.group, logGroup());
            if (!settings.log.equals(KernelLog.KMSG) && !Files.isReadable(settings.log)) {
                throw new Cli.Failure("the user " + settings.user.name() + " may not read " + settings.log
                        + ": in " + dir + "/config, set group to one that may");
            }
            log.start();
            System.out.println("ready: knock ports " + list(doors.keySet().stream().sorted()) + ", log " + settings.log
                    + ", user " + settings.user.name());
            log.follow(this::line);
        }
        throw new Cli.Failure("what followed " + settings.log + " has ended: start the daemon again");
    }

    private Settings settings() throws IOException {
        var file = dir.resolve("config");
        var config = Files.exists(file) ? Profile.settings(file, Set.of("delay", "error_window", "log", "user", "group"))
                : Map.<String, String>of();
        var log = logOption != null ? logOption
                : config.containsKey("log") ? Path.of(config.get("log")) : Files.exists(KERN_LOG) ? KERN_LOG : KernelLog.KMSG;
        if (!Files.exists(log)) {
            throw new Cli.Failure("there is no log " + log + ": name the file with the kernel's messages, or /dev/kmsg");
        }
        boolean ownUser = !Sys.getent("passwd", "knockknock").isEmpty();
        var user = Sys.user(config.getOrDefault("user", ownUser ? "knockknock" : "nobody"));
        int group = ownUser && !config.containsKey("group") ? user.gid() : Sys.group(config.getOrDefault("group", "adm"));
        if (user.uid() == 0 || group == 0) {
            throw new Cli.Failure(file + ": the daemon must not stay root: set user and group to unprivileged ones");
        }
        return new Settings("" + number(file, config, "delay", 15, 3600), number(file, config, "error_window", 100, 10_000),
                log.toAbsolutePath(), user, group);
    }

    private static int number(Path file, Map<String, String> config, String key, int otherwise, int most) {
        var text = config.getOrDefault(key, "" + otherwise);
        if (!text.matches("[1-9][0-9]{0,8}") || Integer.parseInt(text) > most) {
            throw new Cli.Failure(file + ": " + key + " must be a number from 1 to " + most);
        }
        return Integer.parseInt(text);
    }

    private void loadProfiles() throws IOException {
        for (var path : Profile.list(dir.resolve("profiles"))) {
            var door = new Door(Profile.load(path));
            var other = doors.put(door.profile.config().knockPort(), door);
            if (other != null) {
                throw new Cli.Failure("the profiles " + other.profile.name() + " and " + door.profile.name()
                        + " have the same knock_port: change one");
            }
            knockPorts.set(door.profile.config().knockPort());
        }
        if (doors.isEmpty()) {
            throw new Cli.Failure("there is no profile in " + dir + "/profiles: make one with knockknock-genprofile");
        }
    }

    /** Starts KnockknockFirewall from this program's own jar, with no environment but PATH, and waits until its chain is there. */
    private void startRootHalf() throws IOException {
        boolean any = doors.values().stream().anyMatch(door -> door.profile.config().openPorts().isEmpty());
        var openPorts = doors.values().stream().flatMap(door -> door.profile.config().openPorts().stream()).distinct();
        var builder = new ProcessBuilder(System.getProperty("java.home") + "/bin/java", "-Xmx8m", "-Xint", "-XX:+UseSerialGC",
                "-XX:-UsePerfData", "-XX:+DisableAttachMechanism",
                "-XX:+UnlockDiagnosticVMOptions", "-XX:AsyncDeflationInterval=0", // or it wakes up four times a second
                "-Xlog:disable", "-Xlog:all=warning:stderr", // stdout is for answers
                "-cp", System.getProperty("java.class.path").split(File.pathSeparator)[0], "KnockknockFirewall",
                settings.delay, any ? "any" : list(openPorts), list(doors.keySet().stream().sorted()));
        builder.environment().clear();
        builder.environment().put("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        rootHalf = builder.redirectError(ProcessBuilder.Redirect.INHERIT).start();
        answers = rootHalf.inputReader(StandardCharsets.US_ASCII);
        Runtime.getRuntime().addShutdownHook(new Thread(this::stop));
        var answer = answers.readLine();
        if (!"ok".equals(answer)) {
            throw new Cli.Failure("the firewall cannot be set up (if it is missing, install iptables): " + answer);
        }
        rootHalf.onExit().thenRun(() -> {
            if (!stopping) {
                Cli.complain("the root half has ended: start the daemon again");
                System.exit(1);
            }
        });
    }

    private static String list(Stream<Integer> ports) {
        return ports.map(String::valueOf).collect(Collectors.joining(","));
    }

    /** Lets the root half remove its chain, and waits until it has. */
    private void stop() {
        stopping = true;
        try {
            rootHalf.outputWriter(StandardCharsets.US_ASCII).close();
            rootHalf.waitFor();
        } catch (IOException | InterruptedException e) {
            Cli.complain("the root half did not end: " + e);
        }
    }

    /** The only other group that the daemon keeps: the log's, if that is what lets it read the log. */
    private int[] logGroup() throws IOException {
        int group = (int) Files.getAttribute(settings.log, "unix:gid");
        boolean needed = Files.getPosixFilePermissions(settings.log).contains(PosixFilePermission.GROUP_READ);
        return needed && group != 0 ? new int[] {group} : new int[0];
    }

    /** One line of the log: if it is a knock, and right, opens the port that it asks for. */
    private void line(byte[] text, int from, int to) throws IOException {
        var found = KnockCodec.parse(text, from, to, knockPorts);
        if (found.isEmpty() || found.equals(lastAccepted)) {
            return;
        }
        var syn = found.get();
        var source = syn.source().getHostAddress();
        var door = doors.get(syn.knockPort());
        var name = door.profile.name();
        var request = door.profile.codec().open(KnockCodec.carried(syn.fields()), door.next, settings.window);
        if (request.isEmpty()) {
            if (System.nanoTime() - door.quietUntil >= 0) {
                door.quietUntil = System.nanoTime() + QUIET_NANOS;
                System.out.println("knock for profile " + name + " outside the window or not authentic, from " + source);
            }
            return;
        }
        int port = request.get().port();
        try {
            door.profile.counter().store(request.get().counter() + 1);
        } catch (IOException e) {
            Cli.complain("refused to open port " + port + " for " + source + ", as the counter cannot be stored: " + e.getMessage());
            return;
        }
        door.next = request.get().counter() + 1;
        lastAccepted = found;
        if (!door.profile.config().openPorts().isEmpty() && !door.profile.config().openPorts().contains(port)) {
            System.out.println("refused: profile " + name + " may not open port " + port + ", asked by " + source);
            return;
        }
        var requests = rootHalf.outputWriter(StandardCharsets.US_ASCII);
        requests.write(source + " " + port + "\n");
        requests.flush();
        var answer = answers.readLine();
        if (!"ok".equals(answer)) {
            throw new Cli.Failure("port " + port + " was not opened for " + source + ", so this ends: " + answer);
        }
        System.out.println("opened port " + port + " for " + source + ", profile " + name);
    }

    static void main(String[] args) {
        Cli.run(new KnockknockDaemon(), args);
    }
}
