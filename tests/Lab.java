import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Callable;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.stream.Stream;

/**
 * Two hosts in network namespaces, joined by a wire, with real programs on them; gone with all its
 * processes when closed.
 */
final class Lab implements AutoCloseable {
    static final String SERVER = "192.0.2.1";
    static final String CLIENT = "192.0.2.2";
    static final String SERVER6 = "2001:db8::1";
    static final String CLIENT6 = "2001:db8::2";
    /**
     * After so long an opening must be over: the lab's delay, and the eighth that the kernel's
     * timers may be late.
     */
    static final long DELAY_MILLIS = 3500;
    static final Path SUDOERS = Path.of("/etc/sudoers.d/alice");
    private static final Map<String, List<String>> commands = new HashMap<>();

    /** How a command ended, and what it printed. */
    record Result(int exit, String out, String err) {}

    final Path work = Files.createTempDirectory("knock-lab");
    final Path dir = work.resolve("server");
    final Path home = work.resolve("Jörg Müller"); // as some are called
    final Path kernLog = work.resolve("kern.log");
    final Path daemonOut = work.resolve("daemon.out");
    private final List<Process> processes = new ArrayList<>();
    private Process daemon;

    Lab() throws Exception {
        must("chmod", "755", work.toString());
        for (var host : List.of("server", "client")) {
            must("ip", "netns", "add", host);
            must("ip", "-n", host, "link", "set", "lo", "up");
        }
        must("ip", "link", "add", "kk0", "netns", "client", "type", "veth", "peer", "name", "kk0",
                "netns", "server");
        for (var address : List.of(List.of("server", SERVER + "/24"),
                List.of("client", CLIENT + "/24"),
                List.of("server", SERVER6 + "/64"), List.of("client", CLIENT6 + "/64"))) {
            must("ip", "-n", address.get(0), "address", "add", address.get(1), "dev", "kk0",
                    "nodad");
        }
        must("ip", "-n", "server", "link", "set", "kk0", "up");
        must("ip", "-n", "client", "link", "set", "kk0", "up");
        mustOn("server", Path.of("minimal-firewall.sh").toAbsolutePath().toString());
        mustOn("server", "iptables", "-A", "INPUT", "-p", "udp", "--dport", "9", "-j", "LOG",
                "--log-prefix", "lab-probe: ");
        Files.createDirectories(home.resolve(".knockknock"));
        Files.createDirectories(dir);
        config("delay = 3");
    }

    /** Something that accepts connections on the server's port, over both IP versions. */
    void serve(int port) throws Exception {
        start(work.resolve("service"), on("server", "nc", "-lk6", "::", "" + port));
        start(work.resolve("service"), on("server", "nc", "-lk", SERVER, "" + port));
        await("services on " + port, () -> mustOn("server", "ss", "-Hltn", "sport = :" + port)
                .lines().count() == 2);
    }

    /** A log daemon that writes the kernel's messages to {@link #kernLog} as Debian's does. */
    void startRsyslog() throws Exception {
        var config = Files.writeString(work.resolve("rsyslog.conf"), """
                module(load="%s")
                $FileGroup adm
                $FileCreateMode 0640
                kern.* %s
                """.formatted(System.getenv("KNOCK_KERNEL_INPUT"), kernLog));
        start(work.resolve("rsyslog.out"),
                List.of("/usr/sbin/rsyslogd", "-n", "-f", config.toString(),
                "-i", work.resolve("rsyslog.pid").toString()));
        await("rsyslog to write what the kernel says", () -> {
            // the constructor's LOG rule
            mustOn("client", "bash", "-c", "echo > /dev/udp/" + SERVER + "/9");
            return Files.exists(kernLog) && Files.readString(kernLog).contains("lab-probe: ");
        });
    }

    /** Writes the server's config. */
    void config(String lines) throws IOException {
        Files.writeString(dir.resolve("config"), "[main]\n" + lines + "\n");
    }

    /** Makes a profile with the real script and gives a copy to the client as {@code host}. */
    void profile(String name, int knockPort, String host) throws Exception {
        must(script("knockknock-genprofile", "--dir", dir.toString(), name, "" + knockPort));
        must("cp", "-a", dir.resolve("profiles").resolve(name).toString(),
                clientProfile(host).toString());
    }

    /** Adds a line to a profile's config. */
    void addSetting(Path profile, String line) throws IOException {
        Files.writeString(profile.resolve("config"), line + "\n", StandardOpenOption.APPEND);
    }

    Path clientProfile(String host) {
        return home.resolve(".knockknock").resolve(host);
    }

    /** Starts the daemon on the server and waits until it is ready. */
    void startDaemon(String... arguments) throws Exception {
        startDaemon(script("knockknock-daemon"), arguments);
    }

    /** The same with a command that is not the checkout's. */
    void startDaemon(List<String> command, String... arguments) throws Exception {
        Files.deleteIfExists(daemonOut);
        var all = new ArrayList<>(command);
        all.addAll(List.of("--dir", dir.toString()));
        all.addAll(List.of(arguments));
        daemon = start(daemonOut, on("server", all));
        await("the daemon to be ready", () -> {
            if (!daemon.isAlive()) {
                throw new AssertionError("the daemon ended: " + said());
            }
            return said().contains("ready:");
        });
    }

    /** Runs knockknock-check on the server. */
    Result check(String... arguments) throws Exception {
        var all = new ArrayList<>(List.of("--dir", dir.toString()));
        all.addAll(List.of(arguments));
        return run(on("server", script("knockknock-check", all.toArray(String[]::new))));
    }

    /** The keys and the counter of a profile, on either side. */
    static Credentials credentials(Path profile) throws IOException {
        return Credentials.load(Profile.read(profile));
    }

    Process daemon() {
        return daemon;
    }

    /** All that the daemon has printed, on stdout and stderr. */
    String said() throws IOException {
        return Files.exists(daemonOut) ? Files.readString(daemonOut) : "";
    }

    /** How often the daemon has said something. */
    long said(String text) throws IOException {
        return said().lines().filter(line -> line.contains(text)).count();
    }

    void stopDaemon() throws Exception {
        daemon.destroy();
        if (!daemon.waitFor(10, TimeUnit.SECONDS)) {
            throw new AssertionError("the daemon does not stop: " + said());
        }
    }

    /**
     * Knocks from the client with the real script, and waits until the daemon has said something
     * about it.
     */
    void knock(int port, String host) throws Exception {
        long before = said().lines().count();
        must(knockCommand("-p", "" + port, host));
        await("the daemon to take the knock", () -> said().lines().count() > before);
    }

    /** Begins 20,000 SYNs a second to ports from {@code port} on, and 200 to the knock port. */
    void flood(int port, int seconds) throws IOException {
        for (var kind : List.of(List.of("-i", "u50", "-c", "600000", "-p", "++" + port),
                List.of("-i", "u5000", "-c", "6000", "-p", "666"))) {
            var command = new ArrayList<>(on("client", "timeout", "" + seconds, "hping3", "-q",
                    "-S", "--rand-source"));
            command.addAll(kind);
            command.add(SERVER);
            start(work.resolve("hping3"), command);
        }
    }

    String[] knockCommand(String... arguments) throws Exception {
        return on("client", withNetRaw(script("knockknock", arguments))).toArray(String[]::new);
    }

    /**
     * With the one capability that a client needs, as which it does not have to start itself again.
     */
    static List<String> withNetRaw(List<String> command) {
        var all = new ArrayList<>(List.of("setpriv", "--bounding-set=-all,+net_raw",
                "--inh-caps=-all,+net_raw",
                "--ambient-caps=-all,+net_raw"));
        all.addAll(command);
        return all;
    }

    /** Whether a connection from the client gets through within a second. */
    boolean connects(String host, int port) throws Exception {
        return run(on("client", "nc", "-z", "-w", "1", host, "" + port)).exit == 0;
    }

    /** The same, but for longer, as a kernel repeats a SYN that came too early after a second. */
    boolean getsIn(String host, int port) throws Exception {
        return run(on("client", "nc", "-z", "-w", "5", host, "" + port)).exit == 0;
    }

    /**
     * The command that jbang runs for a script of this checkout, with the lab's home for whoever
     * runs it.
     */
    List<String> script(String name, String... arguments) throws Exception {
        if (!commands.containsKey(name)) {
            must(System.getenv("KNOCK_JBANG"), "build", name + ".java");
            var source = Files.readString(Path.of(name + ".java"));
            var command = new ArrayList<>(List.of(System.getProperty("java.home") + "/bin/java"));
            (source + Files.readString(Path.of("lib/Cli.java"))).lines()
                    .filter(l -> l.startsWith("//RUNTIME_OPTIONS "))
                    .forEach(l -> command.addAll(List.of(l.substring("//RUNTIME_OPTIONS ".length())
                            .split(" "))));
            var classPath = must(System.getenv("KNOCK_JBANG"), "info", "classpath", name + ".java")
                    .strip();
            // the tests take three minutes less
            command.add("-Xbootclasspath/a:" + classPath.replaceFirst("[^:]*:", ""));
            command.addAll(List.of("-classpath", classPath));
            command.add(source.lines().filter(l -> l.startsWith("//MAIN ")).findFirst()
                    .orElseThrow().substring(7));
            commands.put(name, command);
        }
        var command = new ArrayList<>(commands.get(name));
        command.add(1, "-Duser.home=" + home);
        command.add(1, "-XX:TieredStopAtLevel=1"); // the daemon starts in less time
        command.addAll(List.of(arguments));
        return command;
    }

    /**
     * A script's command with copies of its jars that every user can read, wherever JBang keeps its
     * own.
     */
    List<String> readable(List<String> command) throws Exception {
        var jars = Files.createDirectories(work.resolve("jars"));
        var readable = new ArrayList<>(command);
        int at = command.indexOf("-classpath") + 1;
        var path = new ArrayList<String>();
        for (var jar : command.get(at).split(":")) {
            must("cp", jar, jars.toString());
            path.add(jars.resolve(Path.of(jar).getFileName()).toString());
        }
        readable.set(at, String.join(":", path));
        readable.set(at - 2, "-Xbootclasspath/a:" + String.join(":", path.subList(1, path.size())));
        must("chmod", "-R", "a+rX", jars.toString());
        return readable;
    }

    /**
     * Lets alice do through sudo what is named, as whoever is in the parentheses, without a
     * password.
     */
    static void sudoFor(String whoAndWhat) throws IOException {
        Files.writeString(SUDOERS, "alice ALL=" + whoAndWhat.replace(") ", ") NOPASSWD: ") + "\n");
    }

    /** A command for the client as the user alice, whose home is the lab's. */
    List<String> asAlice(List<String> command) throws Exception {
        if (run(List.of("getent", "passwd", "alice")).exit != 0) { // gone when the lab is closed
            must("useradd", "--no-create-home", "--home-dir", home.toString(), "alice");
        }
        must("chown", "-R", "alice", home.toString());
        var all = new ArrayList<>(List.of("ip", "netns", "exec", "client", "setpriv",
                "--reuid=alice", "--regid=alice",
                "--clear-groups", "env", "USER=alice", "LOGNAME=alice"));
        all.addAll(command);
        return all;
    }

    /** Starts a tcpdump on the server. */
    Traces.Capture capture(String... arguments) throws Exception {
        var capture = Files.createTempFile(work, "tcpdump", ".out");
        var command = new ArrayList<>(on("server", "tcpdump", "-ln"));
        command.addAll(List.of(arguments));
        var tcpdump = new Traces.Capture(start(capture, command), capture);
        await("tcpdump", () -> tcpdump.text().contains("listening on"));
        return tcpdump;
    }

    /** One that ends with the first packet, which it writes to a file. */
    Traces.Capture captureOne(Path file, String filter) throws Exception {
        return capture("-i", "kk0", "-c", "1", "-U", "-w", file.toString(), filter);
    }

    static List<String> on(String host, String... command) {
        return on(host, List.of(command));
    }

    static List<String> on(String host, List<String> command) {
        return Stream.concat(Stream.of("ip", "netns", "exec", host), command.stream()).toList();
    }

    /** Starts a program that ends with the lab; its output goes to a file. */
    Process start(Path output, List<String> command) throws IOException {
        var builder = builder(command).redirectErrorStream(true)
                .redirectOutput(ProcessBuilder.Redirect.appendTo(output.toFile()));
        var process = builder.start();
        processes.add(process);
        return process;
    }

    private static ProcessBuilder builder(List<String> command) {
        var builder = new ProcessBuilder(command);
        builder.environment().keySet().removeIf(name -> name.startsWith("SUDO_"));
        return builder;
    }

    Result run(List<String> command) throws Exception {
        var err = Files.createTempFile(work, "err", "");
        var process = builder(command).redirectError(err.toFile())
                .redirectInput(Path.of("/dev/null").toFile()).start();
        var late = new AtomicBoolean();
        var limit = process.onExit().orTimeout(180, TimeUnit.SECONDS).exceptionally(_ -> {
            late.set(true);
            return process.destroyForcibly();
        });
        var out = new String(process.getInputStream().readAllBytes(), StandardCharsets.UTF_8);
        limit.join();
        if (late.get()) {
            throw new AssertionError("does not end: " + command + ": " + out);
        }
        return new Result(process.exitValue(), out, Files.readString(err));
    }

    String must(List<String> command) throws Exception {
        var result = run(command);
        if (result.exit != 0) {
            throw new AssertionError(command + ": " + result);
        }
        return result.out;
    }

    String must(String... command) throws Exception {
        return must(List.of(command));
    }

    String mustOn(String host, String... command) throws Exception {
        return must(on(host, command));
    }

    /**
     * Looks again every few milliseconds until {@code condition} holds; fails after two minutes.
     */
    static void await(String what, Callable<Boolean> condition) throws Exception {
        await(() -> what, condition);
    }

    static void await(Callable<String> what, Callable<Boolean> condition) throws Exception {
        for (long end = System.nanoTime() + 120_000_000_000L; !condition.call(); Thread.sleep(5)) {
            if (System.nanoTime() > end) {
                throw new AssertionError("waited in vain for " + what.call());
            }
        }
    }

    @Override
    public void close() throws Exception {
        for (var process : processes.reversed()) {
            process.destroy();
            if (!process.waitFor(5, TimeUnit.SECONDS)) {
                process.destroyForcibly().waitFor();
            }
        }
        for (var host : List.of("server", "client")) {
            run(List.of("ip", "netns", "del", host));
        }
        run(List.of("sh", "-c", "userdel alice; rm -f /etc/sudoers.d/alice"));
        try (var files = Files.walk(work)) {
            files.sorted(Comparator.reverseOrder()).forEach(file -> {
                try {
                    Files.delete(file);
                } catch (IOException e) {
                    throw new UncheckedIOException(e);
                }
            });
        }
    }
}
