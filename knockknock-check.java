///usr/bin/env jbang "$0" "$@" ; exit $?
//JAVA 25+
//MAIN KnockknockCheck
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
//SOURCES lib/server/HostRules.java
//SOURCES lib/server/KernelLog.java
//SOURCES lib/server/LogLine.java
//SOURCES lib/server/Privileges.java
//SOURCES lib/server/ServerConfig.java
//RUNTIME_OPTIONS -Xmx64m

import java.io.FileInputStream;
import java.io.IOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.NetworkInterface;
import java.nio.channels.SocketChannel;
import java.nio.charset.StandardCharsets;
import java.nio.file.DirectoryIteratorException;
import java.nio.file.Files;
import java.nio.file.LinkOption;
import java.nio.file.Path;
import java.nio.file.attribute.PosixFilePermission;
import java.util.BitSet;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Optional;
import java.util.concurrent.Callable;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;

import picocli.CommandLine.Model.CommandSpec;

/**
 * Looks at all that a server needs, and says what it saw: profiles, log, kernel, and the host's own
 * rules. Runs as root, for a moment; changes nothing, and sends one SYN to itself over loopback.
 */
final class KnockknockCheck implements Callable<Integer> {
    private static final Path SERVER = Path.of("/etc/knockknock.d");
    private static final Path DROP_IN = Path.of("/etc/rsyslog.d/10-knockknock.conf");
    private static final Path CONNTRACK = Path.of("/proc/sys/net/netfilter");

    private final CommandSpec command = Cli.command("knockknock-check", this,
            "Say what is missing or wrong on this server, and change nothing.", """
            Each line begins with ok, problem (and then says what to do), or unsure: it
            cannot judge that, such as a rule of yours with conditions of its own.
            """, "0:no line begins with problem", "1:some line does, or it could not look",
            "2:bad usage")
            .addOption(Cli.option("--dir", "DIR", Cli::file, "the server's directory: config and"
                    + " profiles (default: " + SERVER + ")"))
            .addOption(Cli.option("--log", "FILE", Cli::file, "the log that the daemon follows, if"
                    + " it was started with --log"));

    private final BitSet knockPorts = new BitSet();
    private boolean daemonRuns;
    private boolean sound = true;

    @Override
    public Integer call() throws IOException, InterruptedException {
        Privileges.needRoot();
        var given = command.commandLine().getParseResult();
        var dir = given.matchedOptionValue("--dir", SERVER);
        var config = ServerConfig.read(dir,
                Optional.ofNullable(given.matchedOptionValue("--log", null)));

        checkProfiles(dir.resolve("profiles"));
        if (config.knockAddress().isPresent()) {
            var address = config.knockAddress().get();
            report(NetworkInterface.getByInetAddress(address) != null,
                    "knock_address " + address.getHostAddress() + " is this host's",
                    "knock_address " + address.getHostAddress() + " is no address of this host:"
                    + " 'ip -6 address' lists them");
        }
        checkLog(config.log());
        checkFirewallHalf(config);
        checkConnectionTable();
        checkLogRule(config.log());
        checkRules();
        return sound ? 0 : 1;
    }

    /** Prints a line for a thing that is all right, or for a problem with its remedy. */
    private void report(boolean ok, String thing, String problem) {
        System.out.println(ok ? "ok       " + thing : "problem  " + problem);
        sound &= ok;
    }

    private static void unsure(String thing) {
        System.out.println("unsure   " + thing);
    }

    private void checkProfiles(Path profiles) throws IOException {
        try {
            Profile.byKnockPort(profiles);
        } catch (Failure e) {
            report(false, "", e.getMessage());
        }
        int count = 0;
        var ports = Ports.none(); // a number that is TCP's and UDP's stops the daemon
        for (var path : Profile.list(profiles)) {
            try {
                var profile = Profile.read(path);
                profile.key("cipher.key");
                profile.key("mac.key");
                int port = profile.knockPort();
                var opens = profile.openPorts().map(Ports::toString)
                        .orElse("any port (with open_ports far more lost knocks do no harm)");
                var counter = profile.openCounter();
                long next = counter.read();
                daemonRuns |= counter.isLocked();
                report(true, "profile " + profile.name() + ": knock port " + port
                        + ", next counter " + next + ", opens " + opens, "");
                profile.openPorts().ifPresent(ports::add);
                report(!isListening(port), "nothing listens on port " + port, "a service listens on"
                        + " the knock port " + port + ": choose another");
                knockPorts.set(port);
                count++;
            } catch (Failure e) {
                report(false, "", e.getMessage());
            }
        }
        report(count > 0, "profiles: " + count, "no sound profile in " + profiles
                + ": knockknock-genprofile makes one");
    }

    /**
     * Whether a service of this host listens on a TCP port (proc_pid_net(5); state 0A is LISTEN).
     */
    static boolean isListening(int port) throws IOException {
        var line = " *\\d+: [0-9A-F]+:%04X [0-9A-F]+:0000 0A .*".formatted(port);
        for (var table : List.of(Path.of("/proc/net/tcp"), Path.of("/proc/net/tcp6"))) {
            if (Files.exists(table) && Files.lines(table).anyMatch(entry -> entry.matches(line))) {
                return true;
            }
        }
        return false;
    }

    private void checkLog(Path log) throws IOException {
        if (log.equals(KernelLog.KMSG)) {
            KernelLog.openKmsg(); // or it says what is missing, and ends
            report(true, "log " + log, "");
            return;
        }
        boolean written = false;
        var file = log.toRealPath();
        try (var processes = Files.newDirectoryStream(Path.of("/proc"), "[0-9]*")) {
            for (var process = processes.iterator(); !written && process.hasNext(); ) {
                written = writesTo(process.next(), file);
            }
        }
        report(!Files.exists(DROP_IN), "nothing keeps knocks out of " + log, DROP_IN + " keeps"
                + " knocks out of " + log + ": remove it and restart rsyslog, or follow /dev/kmsg");
        report(written, "log " + log + ": a program writes to it", "no program writes to " + log
                + ": start rsyslog, or follow /dev/kmsg: take the line 'log =' out of the config");
    }

    /**
     * Whether a process has {@code file} open for writing, as its link in fd tells
     * (proc_pid_fd(5)).
     */
    private static boolean writesTo(Path process, Path file) {
        try (var descriptors = Files.newDirectoryStream(process.resolve("fd"))) {
            for (var descriptor : descriptors) {
                if (Files.readSymbolicLink(descriptor).equals(file)
                        && Files.getPosixFilePermissions(descriptor, LinkOption.NOFOLLOW_LINKS)
                                .contains(PosixFilePermission.OWNER_WRITE)) {
                    return true;
                }
            }
            return false;
        } catch (IOException | DirectoryIteratorException e) {
            return false; // the process has just ended
        }
    }

    /**
     * Starts the firewall half in a network of its own, where it makes its log rule and an opening.
     */
    private void checkFirewallHalf(ServerConfig config) throws InterruptedException {
        try {
            var ownNetwork = List.of("/usr/bin/unshare", "--net", "--");
            var firewall = Privileges.startFirewall(ownNetwork, config.user(), config.group(), "1",
                    "1-65535", "1", "::");
            firewall.getOutputStream().close();
            firewall.waitFor();
            report(true, "log rule and opening: both work on this kernel", "");
        } catch (Failure | IOException e) {
            report(false, "", e.getMessage());
        }
    }

    /** Openings and connections need room in it; a network namespace counts its own. */
    private void checkConnectionTable() throws IOException {
        var max = CONNTRACK.resolve("nf_conntrack_max");
        if (!Files.exists(max)) {
            return; // nothing tracks connections yet
        }
        long most = number(max), count = number(CONNTRACK.resolve("nf_conntrack_count"));
        report(most == 0 || count < most / 10 * 9, "connections tracked: " + count + " of at most "
                + most, "the kernel tracks " + count + " connections, of at most " + most + ": with"
                + " a full table nothing opens; raise net.netfilter.nf_conntrack_max");
    }

    private static long number(Path setting) throws IOException {
        try (var file = new FileInputStream(setting.toFile())) { // the kernel gives it in one read
            return Long.parseLong(new String(file.readAllBytes(), StandardCharsets.UTF_8).strip());
        }
    }

    /** Sends a SYN to a knock port of this host, and waits until it is in the log. */
    private void checkLogRule(Path log) throws IOException, InterruptedException {
        if (!daemonRuns) {
            unsure("knockknock-daemon does not run, so its log rule was not tried: start it, and"
                    + " check again");
            return;
        }
        if (knockPorts.isEmpty()) {
            return;
        }
        var lines = log.equals(KernelLog.KMSG) ? KernelLog.openKmsg() : KernelLog.follow(log);
        var seen = new CompletableFuture<LogLine.Syn>();
        Thread.ofPlatform().daemon().start(() -> {
            try {
                lines.read((text, from, to) -> LogLine.parse(text, from, to, knockPorts)
                        .filter(syn -> syn.source().isLoopbackAddress())
                        .ifPresent(seen::complete));
            } catch (IOException e) {
                Cli.complain(e);
            }
        });
        int port = knockPorts.nextSetBit(0);
        try (var socket = SocketChannel.open()) {
            socket.configureBlocking(false);
            socket.connect(new InetSocketAddress(InetAddress.ofLiteral("127.0.0.1"), port));
        }
        seen.completeOnTimeout(null, 5, TimeUnit.SECONDS);
        report(seen.join() != null, "a SYN to port " + port + " over loopback is in the log (the"
                + " daemon says that it refused a knock from 127.0.0.1)", "a SYN to port " + port
                + " over loopback is not in the log: does the daemon use this directory? In a"
                + " container or network namespace the host needs"
                + " net.netfilter.nf_log_all_netns=1; are there rules that come before the log"
                + " rule?");
        ProcessHandle.current().children().forEach(ProcessHandle::destroy); // tail
    }

    /** The host's own rules have to deny ordinary packets, and to accept those of openings. */
    private void checkRules() throws IOException, InterruptedException {
        var nft = output("nft", "--terse", "list", "ruleset");
        var odd = new LinkedHashSet<String>(); // an inet table is there for both IP versions
        for (var version : List.of(4, 6)) {
            var ip6 = version == 4 ? "ip" : "ip6";
            var legacy = Path.of("/proc/net/" + ip6 + "_tables_names"); // if its module is loaded
            var rules = HostRules.read(version, nft, output(ip6 + "tables-save"),
                    Files.exists(legacy) ? output(ip6 + "tables-legacy-save") : "");
            var ip = "over IPv" + version + " ";
            checkDenied(ip, rules.input("new"));
            checkAccepted(ip + "an opening's connection", rules.input("related"));
            checkAccepted(ip + "an established connection", rules.input("established"));
            rules.untracked().forEach(rule -> odd.add("no opening lets in what this rule meets: '"
                    + rule + "'"));
            rules.beforeLogRule().forEach(rule -> odd.add("this rule comes before the log rule, and"
                    + " hides the knocks that it meets: '" + rule + "'"));
        }
        odd.forEach(KnockknockCheck::unsure);
        checkSavedTable();
    }

    private void checkDenied(String ip, List<HostRules.Way> ways) {
        var denied = ways.stream().filter(way -> way.end().fate() == HostRules.Fate.DENIED)
                .map(way -> "'" + way.end().rule() + "', chain " + way.chain()).findFirst();
        var doubt = ways.stream().flatMap(way -> way.perhaps().stream())
                .filter(met -> met.fate() != HostRules.Fate.ACCEPTED).findFirst();
        if (denied.isEmpty() && doubt.isPresent()) {
            unsure(ip + "it depends on '" + doubt.get().rule() + "' whether your ports are closed");
            return;
        }
        report(denied.isPresent(), ip + "what no rule accepts is denied by " + denied.orElse(""),
                ip + "no rule denies what the others do not accept, so ports are open already:"
                + " close them, for example with minimal-firewall.sh");
    }

    private void checkAccepted(String what, List<HostRules.Way> ways) {
        for (var way : ways) {
            var rule = "'" + way.end().rule() + "', chain " + way.chain();
            if (way.doubt().isPresent()) {
                unsure("whether " + what + " is accepted depends on '" + way.doubt().get().rule()
                        + "', before " + rule);
            } else if (way.end().fate() == HostRules.Fate.OTHER) {
                unsure("whether " + what + " is accepted depends on " + rule);
            } else {
                report(way.end().fate() == HostRules.Fate.ACCEPTED, what + " is accepted by "
                        + rule, what + " is denied by " + rule + ": before it, add 'ct state"
                        + " established,related accept' (nft), or '-m conntrack --ctstate"
                        + " ESTABLISHED,RELATED -j ACCEPT' (iptables)");
            }
        }
    }

    /** A dump of all rules has ours in it; restored at boot, they log for nobody. */
    private void checkSavedTable() throws IOException {
        for (var place : List.of("/etc/nftables.conf", "/etc/nftables", "/etc/nftables.d",
                "/etc/sysconfig/nftables.conf")) {
            if (!Files.exists(Path.of(place))) {
                continue;
            }
            try (var files = Files.walk(Path.of(place))) {
                for (var file : files.filter(Files::isRegularFile).toList()) {
                    boolean saved;
                    try (var lines = Files.lines(file, StandardCharsets.ISO_8859_1)) {
                        saved = lines.anyMatch(line -> line.contains("table inet knockknock "));
                    }
                    if (saved) {
                        report(false, "", file + " has a copy of the daemon's own table: take"
                                + " 'table inet knockknock' out of it, as the daemon makes it at"
                                + " each start");
                    }
                }
            }
        }
    }

    /** What a program prints; nothing if there is no such program. */
    private static String output(String... command) throws InterruptedException {
        try {
            var process = new ProcessBuilder(command)
                    .redirectError(ProcessBuilder.Redirect.DISCARD).start();
            var text = new String(process.getInputStream().readAllBytes(), StandardCharsets.UTF_8);
            if (process.waitFor() != 0) {
                unsure("'" + String.join(" ", command) + "' failed: its rules are not known");
            }
            return text;
        } catch (IOException e) {
            return "";
        }
    }

    static void main(String[] args) {
        Cli.run(new KnockknockCheck().command, args);
    }
}
