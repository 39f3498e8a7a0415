//DEPS info.picocli:picocli:4.7.7

import java.io.IOException;
import java.nio.file.AccessDeniedException;
import java.nio.file.FileSystemException;
import java.nio.file.NoSuchFileException;
import java.util.concurrent.Callable;

import picocli.CommandLine;
import picocli.CommandLine.ITypeConverter;
import picocli.CommandLine.IVersionProvider;
import picocli.CommandLine.TypeConversionException;

/** What commands share: an error is one line on stderr; exit 0 done, 1 could not, 2 bad usage. */
final class Cli {
    private Cli() {}

    static final class Version implements IVersionProvider {
        @Override
        public String[] getVersion() {
            return new String[] {"${COMMAND-NAME} 2.0.0"};
        }
    }

    /** A port in plain decimal, 1 to 65535. */
    static final class Port implements ITypeConverter<Integer> {
        @Override
        public Integer convert(String text) {
            try {
                return ProfileConfig.port(text);
            } catch (Failure e) {
                throw new TypeConversionException(e.getMessage());
            }
        }
    }

    /** Runs {@code command} and ends the process with its exit code. */
    static void run(Callable<Integer> command, String[] args) {
        System.exit(new CommandLine(command)
                .setExpandAtFiles(false) // or '@file' would be read, and perhaps shown, as root
                .setParameterExceptionHandler((e, _) -> {
                    var name = e.getCommandLine().getCommandName();
                    complain(e.getMessage() + "; see " + name + " --help");
                    return 2;
                })
                .setExecutionExceptionHandler((e, _, _) -> {
                    switch (e) {
                        case Failure failure -> complain(failure.getMessage());
                        case IOException io -> complain(reason(io));
                        default -> throw e;
                    }
                    return 1;
                })
                .execute(args));
    }

    /** What went wrong, in words: the messages of some exceptions are just the name of a file. */
    static String reason(IOException e) {
        return switch (e) {
            case NoSuchFileException missing -> missing.getFile() + " does not exist";
            case AccessDeniedException denied -> denied.getFile() + ": permission denied";
            case FileSystemException other -> "cannot use " + other.getMessage();
            default -> e.getMessage();
        };
    }

    /** Writes one error line. */
    static void complain(String message) {
        System.err.println("knockknock: " + message.replace("\n", "; "));
    }
}
