import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.DirectoryIteratorException;
import java.nio.file.Files;
import java.nio.file.LinkOption;
import java.nio.file.Path;
import java.nio.file.attribute.PosixFilePermission;
import java.util.HashMap;
import java.util.List;

/** knockknock-daemon --check: looks at all that a server needs, changes nothing, and says what is wrong and what to do. */
final class ServerCheck {
    private boolean sound = true;

    /** Checks the profiles below {@code dir}, the log and the firewall; true if there is no problem. */
    boolean run(Path dir, Path log) throws IOException, InterruptedException {
        checkProfiles(dir.resolve("profiles"));
        checkLog(log);
        for (var tool : List.of("iptables", "ip6tables")) {
            checkFirewall(tool);
        }
        boolean recent = Files.exists(Path.of("/proc/net/xt_recent")) || output("modprobe", "-n", "-q", "xt_recent").exit == 0;
        tell(recent, "the kernel's match xt_recent", "this kernel has no xt_recent: take one that has");
        tell(true, "the clock does not matter", "");
        return sound;
    }

    /** Prints a line for a thing that is all right, or for a problem with its remedy. */
    void tell(boolean ok, String thing, String problem) {
        System.out.println(ok ? "ok       " + thing : "problem  " + problem);
        sound &= ok;
    }

    private void checkProfiles(Path profiles) throws IOException {
        var owners = new HashMap<Integer, String>();
        for (var path : Profile.list(profiles)) {
            try {
                var profile = Profile.load(path);
                int port = profile.config().knockPort();
                var opens = profile.config().openPorts();
                tell(true, "profile " + profile.name() + ": knock port " + port + ", next counter " + profile.counter().read()
                        + ", opens " + (opens.isEmpty() ? "any port" : opens), "");
                var other = owners.put(port, profile.name());
                tell(other == null, "knock port " + port + " is only its own", profile.name() + " has the knock port of " + other
                        + ": change one");
                tell(!Sys.isListening(port), "nothing listens on " + port, "a service listens on the knock port " + port
                        + ": choose another");
            } catch (Cli.Failure e) {
                tell(false, "", e.getMessage());
            }
        }
        tell(!owners.isEmpty(), "profiles: " + owners.size(), "no sound profile in " + profiles + ": knockknock-genprofile makes one");
    }

    private void checkLog(Path log) throws IOException {
        if (log.equals(KernelLog.KMSG)) {
            tell(Files.isReadable(log), "log " + log, "cannot read " + log + ": is this a container?");
            return;
        }
        boolean written = false;
        var file = log.toRealPath();
        try (var processes = Files.newDirectoryStream(Path.of("/proc"), "[0-9]*")) {
            for (var process = processes.iterator(); !written && process.hasNext(); ) {
                written = writesTo(process.next(), file);
            }
        }
        tell(written, "log " + log + ": a program writes to it", "no program writes to " + log
                + ": start rsyslog, or set log = /dev/kmsg in the config");
    }

    /** Whether a process has {@code file} open for writing, which the mode of its link in fd tells (proc_pid_fd(5)). */
    private static boolean writesTo(Path process, Path file) {
        try (var descriptors = Files.newDirectoryStream(process.resolve("fd"))) {
            for (var descriptor : descriptors) {
                if (Files.readSymbolicLink(descriptor).equals(file) && Files.getPosixFilePermissions(descriptor, LinkOption.NOFOLLOW_LINKS)
                        .contains(PosixFilePermission.OWNER_WRITE)) {
                    return true;
                }
            }
            return false;
        } catch (IOException | DirectoryIteratorException e) {
            return false; // the process has just ended
        }
    }

    private void checkFirewall(String tool) throws IOException, InterruptedException {
        var input = output(tool, "-w", "-S", "INPUT");
        tell(input.exit == 0, tool, "cannot run " + tool + ": install iptables (" + input.text.strip().replace('\n', ' ') + ")");
        if (input.exit == 0) {
            boolean denies = input.text.lines().anyMatch(rule -> rule.equals("-P INPUT DROP")
                    || rule.matches("-A INPUT -j (DROP|REJECT).*"));
            tell(denies, tool + " denies what is not allowed", tool + " lets everything in, so there is nothing to open:"
                    + " deny in INPUT, for example with minimal-firewall.sh (what nft or firewalld drop by themselves stays dropped)");
        }
    }

    private record Output(int exit, String text) {}

    private static Output output(String... command) throws InterruptedException {
        try {
            var process = new ProcessBuilder(command).redirectErrorStream(true).start();
            var text = new String(process.getInputStream().readAllBytes(), StandardCharsets.UTF_8);
            return new Output(process.waitFor(), text);
        } catch (IOException e) {
            return new Output(-1, e.getMessage());
        }
    }
}
