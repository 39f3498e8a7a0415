import java.io.IOException;
import java.io.UncheckedIOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.Proxy;
import java.net.ServerSocket;
import java.net.Socket;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.ArrayList;
import java.util.List;
import java.util.OptionalLong;
import java.util.Random;
import java.util.concurrent.Callable;
import java.util.concurrent.Executors;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.locks.LockSupport;
import java.util.regex.Pattern;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import java.util.stream.Stream;

/** Measures with real processes and prints a Markdown table, also to bench.md; sudo tests/bench runs it. */
final class Bench {
    private final StringBuilder table = new StringBuilder("| what | median | least | most | runs |\n|---|---|---|---|---|\n");

    private void row(String what, String unit, List<Double> values) {
        var sorted = values.stream().sorted().toList();
        var line = "| %s | %s %s | %s | %s | %d |%n".formatted(what, number(sorted.get(sorted.size() / 2)), unit,
                number(sorted.getFirst()), number(sorted.getLast()), sorted.size());
        table.append(line);
        System.out.print(line);
    }

    private static String number(double value) {
        return value >= 100 ? "%,.0f".formatted(value) : "%.2f".formatted(value);
    }

    private static <T> List<T> repeat(int times, Callable<T> measure) throws Exception {
        var values = new ArrayList<T>();
        for (int i = 0; i < times; i++) {
            values.add(measure.call());
        }
        return values;
    }

    private static double seconds(long since) {
        return (System.nanoTime() - since) / 1e9;
    }

    /** A copy of the JDK, so that what is measured shares no memory with this program. */
    private static String ownJdk(Lab lab) throws Exception {
        var jdk = lab.work.resolve("jdk").toString();
        lab.must("cp", "-r", System.getProperty("java.home"), jdk);
        return jdk;
    }

    private void server(int profiles) throws Exception {
        try (var lab = new Lab()) {
            lab.profile("laptop", 666, Lab.SERVER);
            lab.config("delay = 3");
            var laptop = lab.dir.resolve("profiles/laptop");
            lab.addSetting(laptop, "open_ports = " + ports());
            for (int i = 1; i < profiles; i++) {
                var another = laptop.resolveSibling("p" + i);
                lab.must("cp", "-a", laptop.toString(), another.toString());
                Files.writeString(another.resolve("config"), "[main]\nknock_port = " + (10_000 + i) + "\nopen_ports = 22\n");
            }
            Files.writeString(lab.kernLog, "");
            lab.must("chmod", "644", lab.kernLog.toString());
            var jdk = ownJdk(lab);
            var installed = lab.install(jdk).resolve("knockknock-daemon").toString();
            var codec = Lab.credentials(laptop).codec();
            var counter = new AtomicInteger();
            // another port each time: no opening waits for one before it
            Callable<String> knock = () -> {
                int n = counter.getAndIncrement();
                return Lab.line(codec.seal(1000 + n % 200, n, Carrier.COVER, new byte[0]), 666);
            };
            Callable<Double> latency = () -> {
                long size = Files.size(lab.daemonOut);
                var knockLine = knock.call();
                long start = System.nanoTime();
                Files.writeString(lab.kernLog, knockLine, StandardOpenOption.APPEND);
                while (Files.size(lab.daemonOut) == size) {
                    LockSupport.parkNanos(20_000); // and not all the time: the daemon needs processors too
                }
                return seconds(start) * 1000;
            };
            if (profiles == 1) {
                row("log line appended -> port open, the first after \"ready\"", "ms", repeat(7, () -> {
                    lab.startDaemon(List.of(installed), "--log", lab.kernLog.toString());
                    double first = latency.call();
                    lab.stopDaemon();
                    return first;
                }));
            }
            lab.startDaemon(List.of(installed), "--log", lab.kernLog.toString());
            if (profiles == 1) {
                repeat(50, latency);
                var latencies = repeat(500, () -> {
                    Thread.sleep(20);
                    return latency.call();
                });
                row("log line appended -> port open", "ms", latencies);
                row("the same, 99th percentile", "ms", List.of(latencies.stream().sorted().toList().get(494)));
            }
            var random = new Random(1);
            for (var kind : List.of("noise", "forged")) {
                int count = kind.equals("noise") ? 1_000_000 : 300_000;
                var lines = new StringBuilder();
                for (int i = 0; i < count; i++) {
                    lines.append(Lab.line(new KnockCodec.Fields(random.nextInt(65536), random.nextLong(1L << 32), 0, 0,
                            OptionalLong.of(random.nextLong(1L << 32)), false), kind.equals("noise") ? 80 : 666));
                }
                var file = Files.writeString(lab.work.resolve(kind), lines);
                var processorTimes = new ArrayList<Double>();
                row(kind + " lines through the daemon, " + profiles + " profile(s)", "lines/s", repeat(5, () -> {
                    var before = lab.daemon().info().totalCpuDuration().orElseThrow();
                    long opened = lab.said("opened");
                    var knockLine = knock.call();
                    long start = System.nanoTime();
                    lab.must("sh", "-c", "cat " + file + " >> " + lab.kernLog);
                    Files.writeString(lab.kernLog, knockLine, StandardOpenOption.APPEND);
                    // looks again only when there is more, so as not to take the processor from the daemon
                    for (long seen = -1, size; (size = Files.size(lab.daemonOut)) == seen || lab.said("opened") == opened; seen = size) {
                        Thread.sleep(1);
                    }
                    double took = seconds(start);
                    processorTimes.add(count * 1e9 / lab.daemon().info().totalCpuDuration().orElseThrow().minus(before).toNanos());
                    return count / took;
                }));
                row("the same, for each second of the daemon's processor time", "lines/s", processorTimes);
                Files.writeString(lab.kernLog, "");
            }
            lab.stopDaemon();
            if (profiles == 1) {
                kmsg(lab, installed, jdk);
            }
        }
    }

    /** Two hundred ports for open_ports: few of all, and enough that none has to be used twice within the delay. */
    private static String ports() {
        return IntStream.range(1000, 1200).mapToObj(String::valueOf).collect(Collectors.joining(","));
    }

    /** A flood beside the knock port and on it, read from /dev/kmsg; then nothing. */
    private void kmsg(Lab lab, String installed, String jdk) throws Exception {
        lab.startDaemon(List.of(installed));
        for (var kind : List.of(List.of("-i", "u50", "-c", "600000", "-p", "++2000"), List.of("-i", "u5000", "-c", "6000", "-p", "666"))) {
            var command = new ArrayList<>(Lab.on("client", "timeout", "40", "hping3", "-q", "-S", "--rand-source"));
            command.addAll(kind);
            command.add(Lab.SERVER);
            lab.start(lab.work.resolve("hping3"), command);
        }
        Lab.await("the flood", () -> lab.said("refused") >= 1);
        var family = tree(lab.daemon());
        row("20,000 SYNs/s elsewhere and 200/s on the knock port: daemon and firewall half", "% of a core", repeat(5, () -> {
            double before = processorSeconds(family);
            Thread.sleep(4000);
            return (processorSeconds(family) - before) / 4 * 100;
        }));
        row("the same: overruns of the kernel log", "", List.of((double) lab.said("ran over")));
        lab.must("sh", "-c", "pkill hping3; sleep 1");
        idle("daemon and firewall half", lab.daemon());
        lab.stopDaemon();
        Files.writeString(lab.work.resolve("Empty.java"), "void main() throws Exception { Thread.sleep(120_000); }");
        lab.must(jdk + "/bin/javac", "-d", lab.work.toString(), lab.work.resolve("Empty.java").toString());
        var empty = lab.start(lab.work.resolve("empty"), List.of(jdk + "/bin/java", "-XX:+UseSerialGC", "-cp", lab.work.toString(), "Empty"));
        idle("for comparison: an empty JVM", empty);
    }

    private static double processorSeconds(List<ProcessHandle> processes) {
        return processes.stream().mapToLong(process -> process.info().totalCpuDuration().orElseThrow().toNanos()).sum() / 1e9;
    }

    private static double time(List<String> command) throws Exception {
        long start = System.nanoTime();
        int exit = new ProcessBuilder(command).redirectOutput(ProcessBuilder.Redirect.DISCARD).start().waitFor();
        if (exit != 0) {
            throw new AssertionError(command);
        }
        return seconds(start) * 1000;
    }

    /** What a process and its children cost while nothing happens. */
    private void idle(String what, Process process) throws Exception {
        var processes = tree(process);
        Thread.sleep(65_000); // once a minute the daemon gives memory back
        long before = switches(processes);
        Thread.sleep(20_000);
        row(what + ", idle: wake-ups", "/s", List.of((switches(processes) - before) / 20.0));
        row(what + ": memory", "MB PSS", List.of(memory(processes)));
    }

    private static List<ProcessHandle> tree(Process process) {
        return Stream.concat(Stream.of(process.toHandle()), process.descendants()).toList();
    }

    private static double memory(List<ProcessHandle> processes) throws IOException {
        double kilobytes = 0;
        for (var process : processes) {
            kilobytes += Lab.kilobytes(process.pid(), "smaps_rollup", "Pss");
        }
        return kilobytes / 1024;
    }

    private static long switches(List<ProcessHandle> processes) throws IOException {
        long sum = 0;
        for (var process : processes) {
            try (var tasks = Files.newDirectoryStream(Path.of("/proc/" + process.pid() + "/task"))) {
                for (var task : tasks) {
                    var switches = Pattern.compile("voluntary_ctxt_switches:\\s+(\\d+)").matcher(Files.readString(task.resolve("status")));
                    sum += switches.find() ? Long.parseLong(switches.group(1)) : 0;
                }
            }
        }
        return sum;
    }

    private void client() throws Exception {
        try (var lab = new Lab()) {
            lab.profile("laptop", 666, Lab.SERVER);
            lab.serve(22);
            var installed = lab.install().resolve("knockknock").toString();
            lab.startDaemon(List.of(Path.of(installed).resolveSibling("knockknock-daemon").toString()));
            Lab.sudoFor("(root) " + installed);
            var knock = lab.asAlice(List.of(installed, "-p", "22", Lab.SERVER));
            var connect = lab.asAlice(List.of("sh", "-c", installed + " -p 22 " + Lab.SERVER + " && nc -z -w 3 " + Lab.SERVER + " 22"));
            var empty = Files.writeString(lab.work.resolve("Empty.java"), "///usr/bin/env jbang\nvoid main() {}");
            lab.must(System.getProperty("java.home") + "/bin/javac", "-d", lab.work.toString(), empty.toString());
            var emptyJvm = List.of(System.getProperty("java.home") + "/bin/java", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
                    "-cp", lab.work.toString(), "Empty");
            row("an empty JVM", "ms", repeat(25, () -> time(emptyJvm)));
            row("an empty JVM, in the network and as the user of the rows below", "ms", repeat(25, () -> time(lab.asAlice(emptyJvm))));
            row("knock command installed, as a user through sudo and setpriv, start to exit", "ms", repeat(25, () -> time(knock)));
            row("the same until a connection is accepted", "ms", repeat(25, () -> time(connect)));
            var options = lab.work.resolve("prefix/lib/knockknock/knockknock.options");
            var asInstalled = Files.readString(options);
            var libraries = Stream.of(System.getProperty("java.class.path").split(":")).filter(jar -> jar.matches(".*/(picocli|bcprov)-.*")).toList();
            var withoutArchive = asInstalled.replaceAll("-XX:AOTCache=\\S+", "");
            Files.writeString(options, withoutArchive);
            row("the same command without its archive of classes", "ms", repeat(25, () -> time(knock)));
            var classPath = Files.createDirectory(options.resolveSibling("lib")); // named in the jar's manifest
            lab.must("cp", libraries.get(0), libraries.get(1), classPath.toString());
            var published = libraries.stream().map(jar -> classPath.resolve(Path.of(jar).getFileName()).toString()).collect(Collectors.joining(":"));
            Files.writeString(options, withoutArchive.replaceAll("(-Xbootclasspath/a:)\\S+", "$1" + published));
            row("and with the libraries as they were published", "ms", repeat(25, () -> time(knock)));
            Files.writeString(options, withoutArchive.replaceAll("-Xbootclasspath\\S+", ""));
            row("and without them on the boot class path", "ms", repeat(25, () -> time(knock)));
            lab.must("rm", "-r", classPath.toString());
            Files.writeString(options, asInstalled);
            row("sudo -n -l", "ms", repeat(25, () -> time(lab.asAlice(List.of("sudo", "-n", "-l")))));
            lab.must("chown", "-R", "root", lab.home.toString());
            row("knock command not installed, without jbang", "ms", repeat(15, () -> time(List.of(lab.knockCommand("-p", "22", Lab.SERVER)))));
            row("knock command through jbang", "ms", repeat(7, () -> time(Lab.on("client", System.getenv("KNOCK_JBANG"),
                    "-Duser.home=" + lab.home, "knockknock.java", "-p", "22", Lab.SERVER))));
            row("an empty script through jbang", "ms", repeat(7, () -> time(List.of(System.getenv("KNOCK_JBANG"), empty.toString()))));
            lab.asAlice(List.of());
            Thread.sleep(4000);
            int connected = 0;
            for (int i = 0; i < 200; i++) {
                connected += lab.run(connect).exit() == 0 ? 1 : 0;
            }
            row("knock, then connect at once: connected", "of 200", List.of((double) connected));
            lab.must("chown", "-R", "root", lab.home.toString());
            proxied(lab);
        }
    }

    /** A connection through the proxy, its knock included, from the SOCKS request to the reply. */
    private void proxied(Lab lab) throws Exception {
        var proxy = lab.start(lab.work.resolve("proxy"), Lab.on("client", Lab.withNetRaw(lab.script("knockknock-proxy", "1080"))));
        Lab.await("the proxy", () -> Files.readString(lab.work.resolve("proxy")).contains("ready:"));
        var times = lab.mustOn("client", "python3", "-c", """
                import socket, time
                for i in range(300):
                    s = socket.create_connection(('127.0.0.1', 1080))
                    s.sendall(bytes([5, 1, 0])); assert s.recv(2) == bytes([5, 0])
                    t = time.time()
                    s.sendall(bytes([5, 1, 0, 1]) + socket.inet_aton('%s') + (22).to_bytes(2, 'big'))
                    assert s.recv(10)[1] == 0
                    if i >= 50: print((time.time() - t) * 1000)
                    s.close()
                    time.sleep(.02) # or the log rule's limit of 50 a second stops some
                """.formatted(Lab.SERVER)).lines().map(Double::valueOf).toList();
        row("connection through the proxy, its knock included", "ms", times);
        row("the same, 99th percentile", "ms", List.of(times.stream().sorted().toList().get(247)));
        proxy.destroy();
    }

    private void proxies() throws Exception {
        try (var lab = new Lab(); var threads = Executors.newVirtualThreadPerTaskExecutor();
                var server = new ServerSocket(0, 1000, InetAddress.ofLiteral("127.0.0.1"))) {
            threads.submit(() -> {
                for (;;) {
                    var socket = server.accept();
                    threads.submit(() -> exchange(socket));
                }
            });
            var plain = lab.script("knockknock-proxy", "12001");
            plain.set(0, ownJdk(lab) + "/bin/java");
            var script = Lab.withNetRaw(plain);
            var danted = Files.writeString(lab.work.resolve("danted.conf"), """
                    internal: 127.0.0.1 port = 12003
                    external: 127.0.0.1
                    clientmethod: none
                    socksmethod: none
                    user.privileged: root
                    user.unprivileged: nobody
                    client pass { from: 0.0.0.0/0 to: 0.0.0.0/0 }
                    socks pass { from: 0.0.0.0/0 to: 0.0.0.0/0 }
                    """);
            var key = lab.startSshd(List.of("env"), "127.0.0.1", 12022);
            var commands = List.of(List.<String>of(), script, List.of("microsocks", "-i", "127.0.0.1", "-p", "12002"),
                    List.of("danted", "-f", danted.toString()), List.of("ssh", "-N", "-D", "127.0.0.1:12004", "-p", "12022", "-i", key.toString(),
                    "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "root@127.0.0.1"));
            for (int i = 0; i < commands.size(); i++) {
                var name = List.of("nothing", "knockknock-proxy", "microsocks", "danted", "ssh -D").get(i);
                int port = i == 0 ? 0 : 12000 + i;
                var process = port == 0 ? null : lab.start(lab.work.resolve("proxy-" + i), commands.get(i));
                Callable<Socket> connect = () -> {
                    var socket = port == 0 ? new Socket() : new Socket(new Proxy(Proxy.Type.SOCKS, new InetSocketAddress("127.0.0.1", port)));
                    socket.connect(server.getLocalSocketAddress());
                    return socket;
                };
                Lab.await(name, () -> {
                    try (var _ = connect.call()) {
                        return true;
                    } catch (IOException e) {
                        return false;
                    }
                });
                if (port != 0) {
                    Thread.sleep(3000);
                    row("proxy " + name + ": memory, idle", "MB PSS", List.of(memory(tree(process))));
                    var idle = repeat(500, connect);
                    Thread.sleep(3000);
                    row("proxy " + name + ": memory, 500 idle connections", "MB PSS", List.of(memory(tree(process))));
                    for (var socket : idle) {
                        socket.close();
                    }
                }
                row("proxy " + name + ": download of 1 GiB", "MB/s", repeat(5, () -> transfer(connect.call(), 'd')));
                row("proxy " + name + ": upload of 1 GiB", "MB/s", repeat(5, () -> transfer(connect.call(), 'u')));
                for (int parallel : new int[] {1, 16}) {
                    row("proxy " + name + ": new connections, " + parallel + " at a time", "/s", repeat(5, () -> connections(connect, parallel)));
                }
            }
        }
    }

    private static final int GIGABYTE = 1 << 30;

    /** The server's side: 'd' is answered with a GiB, 'u' with one byte after a GiB has come, all else with one byte. */
    private static Void exchange(Socket socket) throws IOException {
        try (socket) {
            var chunk = new byte[1 << 18];
            int what = socket.getInputStream().read();
            if (what == 'd') {
                for (int sent = 0; sent < GIGABYTE; sent += chunk.length) {
                    socket.getOutputStream().write(chunk);
                }
            } else if (what == 'u') {
                for (long got = 0; got < GIGABYTE; got += socket.getInputStream().read(chunk)) { }
                socket.getOutputStream().write(1);
            } else if (what >= 0) {
                socket.getOutputStream().write(1);
            }
        }
        return null;
    }

    private static double transfer(Socket socket, char what) throws IOException {
        try (socket) {
            var chunk = new byte[1 << 18];
            long start = System.nanoTime();
            socket.getOutputStream().write(what);
            if (what == 'u') {
                for (int sent = 0; sent < GIGABYTE; sent += chunk.length) {
                    socket.getOutputStream().write(chunk);
                }
                socket.getInputStream().read();
            } else {
                for (int count; (count = socket.getInputStream().read(chunk)) >= 0; ) { }
            }
            return GIGABYTE / 1e6 / seconds(start);
        }
    }

    private static double connections(Callable<Socket> connect, int parallel) throws Exception {
        int each = 4000 / parallel;
        long start = System.nanoTime();
        try (var threads = Executors.newFixedThreadPool(parallel)) {
            for (int i = 0; i < parallel; i++) {
                threads.submit(() -> {
                    for (int n = 0; n < each; n++) {
                        try (var socket = connect.call()) {
                            socket.getOutputStream().write('c');
                            socket.getInputStream().read();
                        } catch (IOException e) {
                            throw new UncheckedIOException(e);
                        }
                    }
                    return null;
                });
            }
        }
        return each * parallel / seconds(start);
    }

    /** Runs what is named, or all of it. */
    static void run(List<String> parts) throws Exception {
        var bench = new Bench();
        if (parts.isEmpty() || parts.contains("server")) {
            bench.server(1);
            bench.server(1000);
        }
        if (parts.isEmpty() || parts.contains("client")) {
            bench.client();
        }
        if (parts.isEmpty() || parts.contains("proxies")) {
            bench.proxies();
        }
        Files.writeString(Path.of("bench.md"), bench.table);
    }
}
