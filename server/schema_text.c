#include "server/schema_text.h"

#include <assert.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { EXCERPT_SIZE = 60 }; /* bytes of the text shown around an error */

static const char type_names[] = "u8 u16 u32 u64 u128 i8 i16 i32 i64 f32 f64 bool timestamp "
                                 "text<N> bytes<N>";

/* A word, a mark, or the end of the text. */
struct token {
    const char *start;
    size_t size; /* 0 at the end */
};

struct parser {
    const char *text;
    const char *at;
    struct token token; /* the next one, not yet consumed */
    char *error;        /* [SCHEMA_TEXT_ERROR_SIZE] */
};

static bool is_space(char character)
{
    return character == ' ' || character == '\t' || character == '\n' || character == '\r';
}

static bool is_name_start(char character)
{
    return (character >= 'a' && character <= 'z') || (character >= 'A' && character <= 'Z') ||
           character == '_';
}

static bool is_word(char character)
{
    return is_name_start(character) || (character >= '0' && character <= '9');
}

bool schema_name_valid(const char *name)
{
    const size_t size = strlen(name);
    if (size == 0 || size >= NAME_SIZE || !is_name_start(name[0])) {
        return false;
    }
    for (size_t i = 0; i < size; i++) {
        if (!is_word(name[i])) {
            return false;
        }
    }
    return true;
}

/* A word with an optional <N> at its end, or one character. */
static void advance(struct parser *parser)
{
    while (is_space(*parser->at)) {
        parser->at += 1;
    }
    const char *start = parser->at;
    const char *end = start;
    while (is_word(*end)) {
        end += 1;
    }
    if (end != start && *end == '<') {
        const char *close = end + 1;
        while (*close >= '0' && *close <= '9') {
            close += 1;
        }
        if (*close == '>') {
            end = close + 1;
        }
    }
    if (end == start && *end != '\0') {
        end += 1;
    }
    parser->token = (struct token){.start = start, .size = (size_t)(end - start)};
    parser->at = end;
}

/* Writes "column N: message", the text around it and a caret; returns false for the caller. */
__attribute__((format(printf, 3, 4))) static bool refuse(struct parser *parser, const char *where,
                                                         const char *format, ...)
{
    const size_t offset = (size_t)(where - parser->text);
    const size_t text_size = strlen(parser->text);
    assert(offset <= text_size);

    char message[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);

    size_t start = offset > EXCERPT_SIZE / 2 ? offset - EXCERPT_SIZE / 2 : 0;
    while (start > 0 && ((unsigned char)parser->text[start] & 0xc0) == 0x80) {
        start -= 1; /* Not in the middle of a UTF-8 character. */
    }
    size_t size = text_size - start;
    if (size > EXCERPT_SIZE) {
        size = EXCERPT_SIZE;
    }
    char excerpt[EXCERPT_SIZE + 1];
    memcpy(excerpt, parser->text + start, size);
    excerpt[size] = '\0';
    for (size_t i = 0; i < size; i++) {
        if (is_space(excerpt[i])) {
            excerpt[i] = ' ';
        }
    }
    int caret = 0;
    for (size_t i = start; i < offset; i++) {
        caret += ((unsigned char)parser->text[i] & 0xc0) != 0x80;
    }
    snprintf(parser->error, SCHEMA_TEXT_ERROR_SIZE, "column %zu: %s\n  %s\n  %*s^", offset + 1,
             message, excerpt, caret, "");
    return false;
}

static bool token_is(const struct parser *parser, const char *text)
{
    return parser->token.size == strlen(text) &&
           memcmp(parser->token.start, text, parser->token.size) == 0;
}

static bool token_is_name(const struct parser *parser)
{
    if (parser->token.size == 0 || !is_name_start(parser->token.start[0])) {
        return false;
    }
    return is_word(parser->token.start[parser->token.size - 1]);
}

static void describe_token(const struct parser *parser, char text[64])
{
    if (parser->token.size == 0) {
        snprintf(text, 64, "the text ends");
    } else {
        snprintf(text, 64, "found '%.*s'", (int)(parser->token.size > 40 ? 40 : parser->token.size),
                 parser->token.start);
    }
}

/* Consumes a name into name[NAME_SIZE], zero padded. `what` is what it names. */
static bool take_name(struct parser *parser, const char *what, char *name)
{
    if (!token_is_name(parser)) {
        char found[64];
        describe_token(parser, found);
        return refuse(parser, parser->token.start,
                      "expected the name of %s (letters, digits and _), but %s", what, found);
    }
    if (parser->token.size >= NAME_SIZE) {
        return refuse(parser, parser->token.start, "a name has at most %d bytes, this one has %zu",
                      NAME_SIZE - 1, parser->token.size);
    }
    memset(name, 0, NAME_SIZE);
    memcpy(name, parser->token.start, parser->token.size);
    advance(parser);
    return true;
}

static int field_position(const struct groove_spec *spec, const char *name)
{
    for (uint32_t i = 0; i < spec->field_count; i++) {
        if (strncmp(spec->fields[i].name, name, NAME_SIZE) == 0) {
            return (int)i;
        }
    }
    return -1;
}

static bool parse_field(struct parser *parser, struct groove_spec *spec)
{
    const char *start = parser->token.start;
    if (spec->field_count == FIELD_COUNT_MAX) {
        return refuse(parser, start, "a groove has at most %d fields", FIELD_COUNT_MAX);
    }
    struct field_spec field = {0};
    if (!take_name(parser, "a field, or 'index'", field.name)) {
        return false;
    }
    if (field_position(spec, field.name) >= 0) {
        return refuse(parser, start, "the field '%s' is there already", field.name);
    }
    char type[NAME_SIZE] = {0};
    if (parser->token.size == 0 || parser->token.size >= sizeof type || token_is(parser, ",")) {
        return refuse(parser, parser->token.start, "the field '%s' needs a type: one of %s",
                      field.name, type_names);
    }
    memcpy(type, parser->token.start, parser->token.size);
    if (!field_type_parse(type, &field)) {
        const bool sized = strcmp(type, "text") == 0 || strcmp(type, "bytes") == 0;
        if (sized) {
            return refuse(parser, parser->token.start, "%s needs its size in bytes: %s<100>", type,
                          type);
        }
        return refuse(parser, parser->token.start, "'%s' is not a type; the types are %s", type,
                      type_names);
    }
    advance(parser);
    spec->fields[spec->field_count++] = field;
    return true;
}

static bool add_index_field(struct parser *parser, const struct groove_spec *spec,
                            struct index_spec *index, const char *where, const char *name)
{
    const int position = field_position(spec, name);
    if (position < 0) {
        return refuse(parser, where, "there is no field '%s' before this index", name);
    }
    if (index->field_count == INDEX_FIELD_COUNT_MAX) {
        return refuse(parser, where, "an index has at most %d fields", INDEX_FIELD_COUNT_MAX);
    }
    index->fields[index->field_count++] = (uint8_t)position;
    return true;
}

/* "(country, admin1)", with the parenthesis as the next token. */
static bool parse_index_fields(struct parser *parser, const struct groove_spec *spec,
                               struct index_spec *index)
{
    assert(token_is(parser, "("));
    do {
        advance(parser);
        const char *where = parser->token.start;
        char name[NAME_SIZE];
        if (!take_name(parser, "a field of the index", name) ||
            !add_index_field(parser, spec, index, where, name)) {
            return false;
        }
    } while (token_is(parser, ","));
    if (!token_is(parser, ")")) {
        return refuse(parser, parser->token.start, "expected ',' or ')' in the list of fields");
    }
    advance(parser);
    return true;
}

/* The name of an index that was given none: its fields, joined, as far as they fit. */
static void name_index(const struct groove_spec *spec, struct index_spec *index)
{
    char name[4 * NAME_SIZE + 4] = "";
    for (uint32_t i = 0; i < index->field_count; i++) {
        const size_t size = strlen(name);
        snprintf(name + size, sizeof name - size, "%s%s", i > 0 ? "_" : "",
                 spec->fields[index->fields[i]].name);
    }
    memset(index->name, 0, NAME_SIZE);
    memcpy(index->name, name, strnlen(name, NAME_SIZE - 1));
}

static bool parse_index(struct parser *parser, struct groove_spec *spec)
{
    const char *start = parser->token.start;
    struct index_spec index = {0};
    while (!token_is(parser, "index")) {
        if (token_is(parser, "unique")) {
            index.flags |= INDEX_FLAG_UNIQUE;
        } else if (token_is(parser, "sparse")) {
            index.flags |= INDEX_FLAG_SPARSE;
        } else {
            return refuse(parser, parser->token.start, "expected 'index' after unique or sparse");
        }
        advance(parser);
    }
    advance(parser);
    if (spec->index_count == INDEX_COUNT_MAX) {
        return refuse(parser, start, "a groove has at most %d indexes", INDEX_COUNT_MAX);
    }
    if (token_is(parser, "(")) {
        if (!parse_index_fields(parser, spec, &index)) {
            return false;
        }
        name_index(spec, &index);
    } else {
        const char *where = parser->token.start;
        if (!take_name(parser, "the index, or '('", index.name)) {
            return false;
        }
        if (token_is(parser, "(")) {
            if (!parse_index_fields(parser, spec, &index)) {
                return false;
            }
        } else if (!add_index_field(parser, spec, &index, where, index.name)) {
            return false;
        }
    }
    for (uint32_t i = 0; i < spec->index_count; i++) {
        if (strncmp(spec->indexes[i].name, index.name, NAME_SIZE) == 0) {
            return refuse(parser, start, "the index '%s' is there already", index.name);
        }
    }
    spec->indexes[spec->index_count++] = index;
    return true;
}

bool schema_text_parse(const char *name, const char *text, struct groove_spec *spec, char *error)
{
    assert(name != NULL);
    assert(text != NULL);
    assert(spec != NULL);
    assert(error != NULL);

    *spec = (struct groove_spec){0};
    if (!schema_name_valid(name)) {
        snprintf(error, SCHEMA_TEXT_ERROR_SIZE,
                 "'%.64s' cannot name a groove: use 1 to %d letters, digits and _, not starting "
                 "with a digit",
                 name, NAME_SIZE - 1);
        return false;
    }
    memcpy(spec->name, name, strlen(name));

    struct parser parser = {.text = text, .at = text, .error = error};
    advance(&parser);
    while (parser.token.size > 0) {
        const bool is_index = token_is(&parser, "index") || token_is(&parser, "unique") ||
                              token_is(&parser, "sparse");
        if (is_index ? !parse_index(&parser, spec) : !parse_field(&parser, spec)) {
            return false;
        }
        if (parser.token.size > 0) {
            if (!token_is(&parser, ",")) {
                char found[64];
                describe_token(&parser, found);
                return refuse(&parser, parser.token.start, "expected ',' or the end, but %s",
                              found);
            }
            advance(&parser);
        }
    }
    return true;
}

bool schema_text_format(const struct groove_spec *spec, char *text, size_t text_size)
{
    size_t size = 0;
    text[0] = '\0';
    for (uint32_t i = 0; i < spec->field_count; i++) {
        char type[NAME_SIZE];
        field_type_format(&spec->fields[i], type, sizeof type);
        size += (size_t)snprintf(text + size, text_size - size, "%s%s %s", i > 0 ? ", " : "",
                                 spec->fields[i].name, type);
        if (size >= text_size) {
            return false;
        }
    }
    for (uint32_t i = 0; i < spec->index_count; i++) {
        const struct index_spec *index = &spec->indexes[i];
        size += (size_t)snprintf(text + size, text_size - size, "%s%s%sindex %s (",
                                 size > 0 ? ", " : "",
                                 index->flags & INDEX_FLAG_UNIQUE ? "unique " : "",
                                 index->flags & INDEX_FLAG_SPARSE ? "sparse " : "", index->name);
        for (uint32_t field = 0; field < index->field_count && size < text_size; field++) {
            size += (size_t)snprintf(text + size, text_size - size, "%s%s", field > 0 ? ", " : "",
                                     spec->fields[index->fields[field]].name);
        }
        if (size + 1 >= text_size) {
            return false;
        }
        text[size++] = ')';
        text[size] = '\0';
    }
    return true;
}

/* A quoted string or a bare word, at the parser's token. */
static bool take_value(struct parser *parser, struct where_term *term)
{
    const char *start = parser->token.start;
    if (parser->token.size == 0) {
        return refuse(parser, start, "expected a value for '%s', such as \"AD\" or 42", term->name);
    }
    const char quote = *start == '"' || *start == '\'' ? *start : '\0';
    const char *at = quote != '\0' ? start + 1 : start;
    uint32_t size = 0;
    while (*at != '\0' && (quote != '\0' ? *at != quote : !is_space(*at))) {
        if (quote != '\0' && *at == '\\' && (at[1] == quote || at[1] == '\\')) {
            at += 1;
        }
        if (size == WHERE_VALUE_SIZE_MAX) {
            return refuse(parser, start, "a value has at most %d bytes", WHERE_VALUE_SIZE_MAX);
        }
        term->value[size++] = *at++;
    }
    if (quote != '\0') {
        if (*at != quote) {
            return refuse(parser, start, "this quote is never closed");
        }
        at += 1;
    }
    term->value[size] = '\0';
    term->value_size = size;
    parser->at = at;
    advance(parser);
    return true;
}

bool where_parse(const char *text, struct where *where, char *error)
{
    assert(text != NULL);
    assert(where != NULL);
    assert(error != NULL);

    where->term_count = 0;
    struct parser parser = {.text = text, .at = text, .error = error};
    advance(&parser);
    for (;;) {
        if (where->term_count == WHERE_TERM_MAX) {
            return refuse(&parser, parser.token.start, "at most %d fields can be asked for at once",
                          WHERE_TERM_MAX);
        }
        struct where_term *term = &where->terms[where->term_count];
        const char *start = parser.token.start;
        if (!take_name(&parser, "a field", term->name)) {
            return false;
        }
        for (uint32_t i = 0; i < where->term_count; i++) {
            if (strcmp(where->terms[i].name, term->name) == 0) {
                return refuse(&parser, start, "the field '%s' is asked for twice", term->name);
            }
        }
        if (!token_is(&parser, "=")) {
            return refuse(&parser, parser.token.start, "expected '=' after '%s'", term->name);
        }
        advance(&parser);
        if (token_is(&parser, "=")) {
            advance(&parser); /* "==", as in most languages. */
        }
        if (!take_value(&parser, term)) {
            return false;
        }
        where->term_count += 1;
        if (parser.token.size == 0) {
            return true;
        }
        if (!token_is(&parser, "and") && !token_is(&parser, "AND")) {
            return refuse(&parser, parser.token.start, "expected 'and' or the end");
        }
        advance(&parser);
    }
}
