import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;

/**
 * Starts this program again in place of itself, with what it lacks: the same java, class path and
 * arguments, from the directory / and with an empty environment. Returns only if that cannot be
 * done.
 */
final class Sudo {
    private static final String NET_RAW = "-all,+net_raw";

    private Sudo() {}

    /** As root, for a server's commands. */
    static Failure asRoot(String why) throws IOException {
        Cli.complain(why + " needs root: asking sudo");
        return again(List.of("/usr/bin/sudo", "--"), List.of());
    }

    /** As the same user, with CAP_NET_RAW and nothing more; root itself is left with no more. */
    static Failure withNetRaw() throws IOException {
        var setpriv = new ArrayList<>(List.of("/usr/bin/setpriv", "--bounding-set", NET_RAW,
                "--inh-caps", NET_RAW, "--ambient-caps", NET_RAW, "--no-new-privs"));
        if (Sys.uid() == 0) {
            return again(List.of(), setpriv);
        }
        Cli.complain("opening a raw socket needs CAP_NET_RAW: asking sudo");
        setpriv.addAll(List.of("--reuid", "" + Sys.uid(), "--regid", "" + Sys.gid(),
                "--init-groups"));
        return again(List.of("/usr/bin/sudo", "--"), setpriv);
    }

    private static Failure again(List<String> sudo, List<String> setpriv) throws IOException {
        var command = new ArrayList<>(sudo);
        command.addAll(List.of("/usr/bin/env", "-i", "-C", "/",
                "PATH=/usr/sbin:/usr/bin:/sbin:/bin"));
        command.addAll(setpriv);
        command.add(Files.readSymbolicLink(Path.of("/proc/self/exe")).toString());
        command.add("-Duser.dir=" + System.getProperty("user.dir")); // where file names begin
        var own = Files.readString(Path.of("/proc/self/cmdline")).split("\0", -1);
        command.addAll(List.of(own).subList(1, own.length - 1));
        Sys.exec(command);
        return new Failure("cannot start " + command.getFirst() + ": install sudo and util-linux");
    }
}
