/** Something that the user can mend: the message says what is wrong and what to do. */
final class Failure extends RuntimeException {
    Failure(String message) {
        super(message);
    }
}
