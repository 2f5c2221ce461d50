--- Arrays as pictures: PNG files, written by libpng (1.6), which is loaded when it is first used.

local check = require "tidepool.base.check"
local ffi = require "ffi"

local image = {}

local VERSION, GREY = 1, 0 -- PNG_IMAGE_VERSION, PNG_FORMAT_GRAY
local SIDE_MAX = 1000000   -- libpng's limit

local opened

--- libpng; opens it. The function has a name of our own, so that scripts may declare libpng's.
local function library()
  if opened then return opened end
  local is_there, found = pcall(ffi.load, "libpng16.so.16")
  if not is_there then check.fail "array:image needs libpng (libpng16.so.16), which is not installed: on Debian, apt install libpng16-16" end
  ffi.cdef [[
    typedef struct tidepool_png { /* png_image of png.h */
      void *opaque;
      uint32_t version, width, height, format, flags, colormap_entries, warning_or_error;
      char message[64];
    } tidepool_png;
    int tidepool_png_write(tidepool_png *image, const char *path, int convert, const void *pixels, int32_t row,
                           const void *colormap) __asm__("png_image_write_to_file");
  ]]
  opened = found
  return found
end

--- The elements as bytes: those of uint8 as they are, others from the least (black) to the greatest
--- (white); what is not finite is black.
local function pixels_of(a)
  local n = a.length
  if a.ctype == "uint8" then return a.elements end
  local pixels = ffi.new("uint8_t[?]", n)
  local least, most = math.huge, -math.huge
  for k = 1, n do
    local x = tonumber(a[k])
    if x - x == 0 then least, most = math.min(least, x), math.max(most, x) end
  end
  local width = most / 2 - least / 2 -- halves, so that nothing overflows
  if not (width > 0) then return pixels end
  for k = 1, n do
    local x = tonumber(a[k])
    if x - x == 0 then pixels[k - 1] = (x / 2 - least / 2) / width * 255 + 0.5 end
  end
  return pixels
end

--- Writes the matrix.
function image.write(a, path)
  if a.columns == 0 then check.fail "array:image: the array has no rows: a:reshape(rows, columns) gives it some" end
  if a.planes > 0 then check.fail "array:image: a picture is a matrix, and the array has planes: a:plane(z):image(path)" end
  if type(path) ~= "string" then check.fail("array:image: expected a path, got %s", check.show(path)) end
  if path:find "%z" then check.fail "array:image: the path has a zero byte in it" end
  if a.rows < 1 or a.rows > SIDE_MAX or a.columns > SIDE_MAX then
    check.fail("array:image: a picture has 1 to %d rows and columns, not %d and %d", SIDE_MAX, a.rows, a.columns)
  end
  local png = library()
  local of = ffi.new("tidepool_png", { version = VERSION, width = a.columns, height = a.rows, format = GREY })
  if png.tidepool_png_write(of, path, 0, pixels_of(a), 0, nil) == 0 then
    check.fail("array:image: %s: %s", path, ffi.string(of.message))
  end
end

return image
