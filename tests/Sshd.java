import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;

/** OpenSSH's server, in a lab. */
final class Sshd {
    private Sshd() {}

    /**
     * An sshd for root, who gets in with the key whose file is returned; {@code where} is what
     * begins a command there.
     */
    static Path start(Lab lab, List<String> where, String address, int port) throws Exception {
        var keys = Files.createDirectory(lab.work.resolve("ssh"));
        for (var key : List.of("host", "user")) {
            lab.must("ssh-keygen", "-q", "-N", "", "-t", "ed25519", "-f",
                    keys.resolve(key).toString());
        }
        lab.must("sh", "-c", "mkdir -p /run/sshd && chmod 700 " + keys);
        var sshd = new ArrayList<>(where);
        sshd.addAll(List.of("/usr/sbin/sshd", "-D", "-e", "-h", keys.resolve("host").toString(),
                "-o", "StrictModes=no", "-o", "PermitRootLogin=yes", "-o", "UsePAM=no", "-o",
                        "Port=" + port,
                "-o", "AuthorizedKeysFile=" + keys.resolve("user.pub"), "-o", "ListenAddress="
                        + address));
        lab.start(lab.work.resolve("sshd"), sshd);
        var listening = new ArrayList<>(where);
        listening.addAll(List.of("ss", "-Hltn", "sport = :" + port));
        Lab.await("sshd", () -> lab.must(listening).lines().count() == 1);
        return keys.resolve("user");
    }
}
