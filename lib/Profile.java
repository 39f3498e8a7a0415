import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.attribute.PosixFilePermission;
import java.util.Base64;

/**
 * One profile directory: two keys, the next counter and a config, as the original knockknock lays
 * them out. Reading one changes nothing; the counter is the only file that is ever written again.
 */
record Profile(Path directory, KnockCodec codec, Counter counter, ProfileConfig config) {
    /** Loads a profile and opens its counter. */
    static Profile load(Path directory) throws IOException {
        var config = ProfileConfig.read(directory);
        var codec = new KnockCodec(key(directory.resolve("cipher.key")),
                key(directory.resolve("mac.key")));
        return new Profile(directory, codec, Counter.open(directory.resolve("counter")), config);
    }

    /** The profile's name: on a server what it was called there, on a client the host. */
    String name() {
        return directory.getFileName().toString();
    }

    private static byte[] key(Path file) throws IOException {
        var text = Config.text(file).strip();
        if (Files.getPosixFilePermissions(file).stream()
                .anyMatch(p -> p.compareTo(PosixFilePermission.GROUP_READ) >= 0)) {
            throw new Failure(file + " is open to other users: chmod 600 " + file);
        }
        if (!text.matches("[A-Za-z0-9+/]{22}==")) {
            throw new Failure(file + " is damaged: it must hold 16 bytes in base64; copy it from"
                    + " the other side again");
        }
        return Base64.getDecoder().decode(text);
    }
}
